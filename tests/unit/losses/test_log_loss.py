import numpy as np
import pytest
import torch

from ctrdist.losses.objective import log_loss_sum


def test_equals_equation_17_times_n(rng: np.random.Generator) -> None:
    z = rng.normal(scale=3, size=200)
    y = (rng.random(200) < 0.3).astype(float)
    p = 1 / (1 + np.exp(-z))
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum()
    logits = torch.tensor(z, dtype=torch.float32, requires_grad=True)
    loss = log_loss_sum(logits, torch.tensor(y, dtype=torch.float32))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    np.testing.assert_allclose(logits.grad, p - y, rtol=1e-5, atol=1e-6)


def test_large_logits_stay_finite() -> None:
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    loss = log_loss_sum(logits, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert loss.item() == pytest.approx(2e4)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [0, 0, 1, -1]


def test_adds_up_in_float32_also_under_autocast() -> None:
    logits, label = torch.zeros(10_000, dtype=torch.bfloat16), torch.ones(10_000)
    with torch.autocast("cpu", torch.bfloat16):
        loss = log_loss_sum(logits, label)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(10_000 * np.log(2), rel=1e-5)


def test_parts_add_up_and_no_rows_give_zero() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(50), torch.ones(50)
    parts = log_loss_sum(logits[:20], label[:20]) + log_loss_sum(logits[20:], label[20:])
    torch.testing.assert_close(parts, log_loss_sum(logits, label))
    assert log_loss_sum(logits[:0], label[:0]).item() == 0
