"""Focal loss, R-CE and twin focus against float64 references written with p itself."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ctrdist.batch import COMPLEX_LOGITS, SIMPLE_LOGITS, Output
from ctrdist.config.losses import LossConfig
from ctrdist.errors import ConfigError
from ctrdist.losses.objective import (
    complex_loss,
    focal,
    least_monotone_c,
    log_loss_sum,
    r_ce,
    simple_loss,
    training_loss_sum,
    twin_focus_loss_sum,
    warn_of_loss,
)

Loss = Callable[[Tensor, Tensor], Tensor]
GAMMAS = [0.0, 0.5, 1.0, 2.0, 3.0]
ALPHA, C = 0.3, 0.8


def focal_loss_sum(z: Tensor, y: Tensor, gamma: float) -> Tensor:
    return focal(LossConfig(name="focal", gamma=gamma), Output(z), y)


def r_ce_loss_sum(z: Tensor, y: Tensor, gamma: float) -> Tensor:
    return r_ce(LossConfig(name="r_ce", gamma=gamma), Output(z), y)


def twin_sum(simple: Tensor, hard: Tensor, y: Tensor, **settings: float) -> Tensor:
    config = LossConfig(name="twin_focus", **settings)  # type: ignore[arg-type]
    return twin_focus_loss_sum(config, simple, hard, y)


def rows(rng: np.random.Generator, size: int = 200) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(scale=3, size=size), (rng.random(size) < 0.4).astype(float)


def encoders(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a simple and of a complex encoder, and labels."""
    simple, label = rows(rng)
    return torch.from_numpy(simple), torch.from_numpy(rows(rng)[0]), torch.from_numpy(label)


def weighted(gamma: float, weight: Callable[[float], float], z: np.ndarray, y: np.ndarray):
    """−Σ weight(p)^γ ln p and its derivative by z in closed form, negative rows written out."""
    total, slope = 0.0, np.zeros_like(z)
    for b, (logit, label) in enumerate(zip(z, y, strict=True)):
        predicted = 1 / (1 + np.exp(-logit))
        p = predicted if label == 1 else 1 - predicted
        total -= weight(p) ** gamma * np.log(p)
        d = (weight(p + 1e-7) - weight(p - 1e-7)) / 2e-7  # of a weight that is linear in p
        by_p = -gamma * weight(p) ** (gamma - 1) * d * np.log(p) - weight(p) ** gamma / p
        slope[b] = by_p * p * (1 - p) * (1 if label == 1 else -1)
    return total, slope


def loss_and_slope(loss: Loss, z: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    logits = torch.tensor(z, dtype=torch.float32, requires_grad=True)
    value = loss(logits, torch.tensor(y, dtype=torch.float32))
    assert value.shape == () and value.dtype == torch.float32
    value.backward()
    assert logits.grad is not None
    return value.item(), logits.grad.numpy()


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def simple_sum(gamma: float) -> Loss:
    return lambda z, y: twin_sum(z, z.detach(), y, alpha=1.0, c=C, gamma=gamma)


def complex_sum(gamma: float) -> Loss:
    return lambda z, y: twin_sum(z.detach(), z, y, alpha=0.0, c=C, gamma=gamma)


LOSSES: dict[str, tuple[Callable[[float], Loss], Callable[[float], float]]] = {
    "focal": (lambda gamma: lambda z, y: focal_loss_sum(z, y, gamma), lambda p: 1 - p),
    "simple": (simple_sum, lambda p: C + p),
    "complex": (complex_sum, lambda p: 2 - C - p),
}


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", LOSSES)
def test_equals_its_definition(name: str, gamma: float, rng: np.random.Generator) -> None:
    made, weight = LOSSES[name]
    z, y = rows(rng)
    value, slope = loss_and_slope(made(gamma), z, y)
    expected, expected_slope = weighted(gamma, weight, z, y)
    assert value == pytest.approx(expected, rel=1e-5)
    assert distance(slope, expected_slope) < 1e-5


@pytest.mark.parametrize("gamma", GAMMAS)
def test_r_ce_weights_by_a_constant(gamma: float, rng: np.random.Generator) -> None:
    z, y = rows(rng)
    value, slope = loss_and_slope(lambda z, y: r_ce_loss_sum(z, y, gamma), z, y)
    predicted = 1 / (1 + np.exp(-z))
    p = np.where(y == 1, predicted, 1 - predicted)
    assert value == pytest.approx(-(p**gamma * np.log(p)).sum(), rel=1e-5)
    assert distance(slope, p**gamma * (predicted - y)) < 1e-5


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("c", [0.0, 0.5, 0.9, 1.0])
def test_twin_focus_has_the_closed_gradient(gamma: float, c: float) -> None:
    u = torch.linspace(-12, 12, 401, dtype=torch.float64, requires_grad=True)
    p, m = torch.sigmoid(u.detach()), 2 - c
    bracket = c + p + gamma * p * p.log()
    simple = -((c + p) ** (gamma - 1)) * (1 - p) * bracket
    bracket = m - p - gamma * p * p.log()
    hard = -((m - p) ** (gamma - 1)) * (1 - p) * bracket
    for loss, expected in ((simple_loss, simple), (complex_loss, hard)):
        (slope,) = torch.autograd.grad(loss(u, c, gamma).sum(), u)
        torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-12)


def test_without_gamma_it_is_a_plain_auxiliary_cross_entropy(rng: np.random.Generator) -> None:
    simple, hard, label = encoders(rng)
    loss = twin_sum(simple, hard, label, alpha=ALPHA, c=C, gamma=0.0)
    plain = ALPHA * log_loss_sum(simple, label) + (1 - ALPHA) * log_loss_sum(hard, label)
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_labels_and_logits_may_be_mirrored(gamma: float, rng: np.random.Generator) -> None:
    z, y = (torch.from_numpy(part) for part in rows(rng))
    for made, _ in LOSSES.values():
        assert torch.equal(made(gamma)(-z, 1 - y), made(gamma)(z, y))
    assert torch.equal(r_ce_loss_sum(-z, 1 - y, gamma), r_ce_loss_sum(z, y, gamma))


def test_alpha_shares_out(rng: np.random.Generator) -> None:
    simple, hard, label = encoders(rng)
    parts = [twin_sum(simple, hard, label, alpha=a, c=C, gamma=2.0) for a in (1.0, 0.0)]
    whole = twin_sum(simple, hard, label, alpha=ALPHA, c=C, gamma=2.0)
    torch.testing.assert_close(whole, ALPHA * parts[0] + (1 - ALPHA) * parts[1])
    assert parts[0] != parts[1]


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("c", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("size", [100.0, 1e4])
def test_large_logits_stay_finite(size: float, gamma: float, c: float) -> None:
    z = torch.tensor([size, -size, size, -size, 0.0], requires_grad=True)
    y = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    for loss in (
        twin_sum(z, z, y, alpha=ALPHA, c=c, gamma=gamma),
        focal_loss_sum(z, y, gamma),
        r_ce_loss_sum(z, y, gamma),
    ):
        (slope,) = torch.autograd.grad(loss, z)
        assert loss.isfinite() and slope.isfinite().all()
    # a row that the complex encoder has wholly wrong pulls with weight m^γ
    loss = twin_sum(z.detach(), z, y, alpha=0.0, c=c, gamma=gamma)
    (slope,) = torch.autograd.grad(loss, z)
    assert slope[2].item() == pytest.approx((2 - c) ** gamma, rel=1e-5)
    assert slope[0].abs() < 1e-35


@pytest.mark.parametrize("name", [*LOSSES, "r_ce"])
def test_adds_up_in_float32_also_under_autocast(name: str) -> None:
    loss = LOSSES[name][0](1.0) if name in LOSSES else lambda z, y: r_ce_loss_sum(z, y, 1.0)
    logits, label = torch.zeros(10_000, dtype=torch.bfloat16), torch.ones(10_000)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, label)
    assert value.dtype == torch.float32
    weight = {"simple": C + 0.5, "complex": 1.5 - C}.get(name, 0.5)
    assert value.item() == pytest.approx(10_000 * weight * np.log(2), rel=1e-5)
    assert loss(logits[:0], label[:0]).item() == 0


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 3.0])
def test_the_bound_of_c_is_where_the_loss_begins_to_fall_with_p(gamma: float) -> None:
    u = torch.linspace(-12, 12, 4001, dtype=torch.float64, requires_grad=True)
    bound = least_monotone_c(gamma)
    for c, monotone in ((bound + 1e-3, True), (bound - 1e-3, False)):
        (slope,) = torch.autograd.grad(simple_loss(u, c, gamma).sum(), u)
        assert bool((slope < 0).all()) == monotone
    (slope,) = torch.autograd.grad(complex_loss(u, 0.0, gamma).sum(), u)
    assert (slope < 0).all()


def test_the_bounds_that_are_known() -> None:
    assert [round(least_monotone_c(gamma), 3) for gamma in (1, 2, 3)] == [0.135, 0.446, 0.791]
    assert least_monotone_c(0.0) == 0


@pytest.mark.parametrize(
    ("config", "warns"),
    [
        (LossConfig(name="twin_focus", gamma=3, c=0.7), True),
        (LossConfig(name="twin_focus", gamma=3, c=0.8), False),
        (LossConfig(name="twin_focus", gamma=3, c=0.7, alpha=0), False),
        (LossConfig(name="twin_focus", gamma=0, c=0), False),
        (LossConfig(name="focal", gamma=3, c=0.7), False),
    ],
)
def test_warns_where_rows_are_pushed_away_from_their_label(config, warns, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_loss(config)
    assert (["0.791 on" in record.getMessage() for record in caplog.records] == [True]) == warns


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": -1.0}, "loss.gamma is -1.0; give a number of at least 0"),
        ({"gamma": float("nan")}, "loss.gamma is nan"),
        ({"alpha": 1.5}, "loss.alpha is 1.5; give one from 0 to 1"),
        ({"c": 1.2}, "loss.c is 1.2"),
        ({"c": -0.1}, "loss.c is -0.1"),
    ],
)
def test_refuses_settings_that_cannot_work(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        LossConfig(**settings)


def test_the_settings_choose(rng: np.random.Generator) -> None:
    z, simple, hard = (torch.from_numpy(rows(rng)[0]) for _ in range(3))
    y = torch.from_numpy(rows(rng)[1])
    output = Output(z, {SIMPLE_LOGITS: simple, COMPLEX_LOGITS: hard})
    log = log_loss_sum(z, y)
    chosen = {
        "log": log,
        "focal": focal_loss_sum(z, y, 2.0),
        "r_ce": r_ce_loss_sum(z, y, 2.0),
        "twin_focus": log + twin_sum(simple, hard, y, alpha=0.2, c=0.6, gamma=2.0),
    }
    for name, expected in chosen.items():
        config = LossConfig(name=name, gamma=2.0, alpha=0.2, c=0.6)  # type: ignore[arg-type]
        assert torch.equal(training_loss_sum(config, output, y), expected)
    assert torch.equal(training_loss_sum(LossConfig(), Output(z), y), log)
