import numpy as np
import pytest
import torch
from torch import nn

from ctrdist.models.layers import (
    MLP,
    Dropout,
    NumericEmbedding,
    TokenLinear,
    linear,
    short_softmax,
    token_weight,
)


def test_token_linear_maps_along_the_token_axis(rng: np.random.Generator) -> None:
    layer = TokenLinear(5, 3, bias=True)
    assert layer.bias_M is not None
    nn.init.normal_(layer.bias_M)
    x = rng.normal(size=(4, 5, 6))
    weight = layer.weight_NM.detach().double().numpy()
    expected = np.empty((4, 3, 6))
    for b in range(4):
        for m in range(3):
            expected[b, m] = layer.bias_M[m].item()
            for n in range(5):
                expected[b, m] += weight[n, m] * x[b, n]
    out = layer(torch.tensor(x, dtype=torch.float32))
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_token_linear_has_no_bias_unless_asked() -> None:
    assert [name for name, _ in TokenLinear(5, 3).named_parameters()] == ["weight_NM"]


def test_numeric_embedding_is_value_times_vector(rng: np.random.Generator) -> None:
    layer = NumericEmbedding(3, 4)
    value = rng.normal(size=(5, 3)).astype(np.float32)
    vectors = layer.weight_KD.detach().numpy()
    out = layer(torch.from_numpy(value)).detach().numpy()
    assert out.shape == (5, 3, 4)
    for b in range(5):
        for k in range(3):
            np.testing.assert_allclose(out[b, k], value[b, k] * vectors[k], rtol=1e-6)


def test_numeric_embedding_takes_no_fields() -> None:
    assert NumericEmbedding(0, 4)(torch.zeros(5, 0)).shape == (5, 0, 4)


def test_initial_sizes() -> None:
    torch.manual_seed(0)
    layer = linear(300, 500)
    assert abs(layer.weight.std().item() / (2 / 800) ** 0.5 - 1) < 0.02
    assert not layer.bias.any()
    assert linear(3, 5, bias=False).bias is None
    bound = (6 / 50) ** 0.5
    weight = token_weight(400, 50)
    assert bound * 0.99 < weight.abs().max().item() <= bound
    vectors = NumericEmbedding(4000, 15).weight_KD
    assert abs(vectors.std().item() / (2 / 16) ** 0.5 - 1) < 0.02


def test_mlp_is_built_in_order() -> None:
    kinds = [type(layer) for layer in MLP(4, [8, 6], 1, dropout=0.1)]
    block = [nn.Linear, nn.BatchNorm1d, nn.ReLU, Dropout]
    assert kinds == [*block, *block, nn.Linear]
    assert [type(layer) for layer in MLP(4, [8], batch_norm=False)] == [
        nn.Linear,
        nn.ReLU,
        Dropout,
    ]
    assert MLP(4, [8, 6])(torch.randn(3, 4)).shape == (3, 6)
    assert MLP(4, [8, 6], 2)(torch.randn(3, 4)).shape == (3, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.83])
def test_dropout_drops_its_share_and_scales_the_rest(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    x = torch.ones(1000, 201, dtype=dtype, requires_grad=True)  # no multiple of four
    out = Dropout(p)(x)
    assert out.dtype == dtype
    kept = out != 0
    share = kept.double().mean().item()
    assert abs(share - (1 - p)) < 5 * (p * (1 - p) / x.numel()) ** 0.5
    # neither rows, columns nor neighbours of one draw go together
    centred = kept.double() - share
    for shift in (1, 2, 3, 4, 201):
        together = (centred.flatten()[shift:] * centred.flatten()[:-shift]).mean().item()
        assert abs(together) < 5 * p * (1 - p) / x.numel() ** 0.5
    scale = 65536 / (65536 - round(p * 65536))
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], scale), rtol=4e-3, atol=0)
    grad = torch.randn_like(out)
    out.backward(grad)
    torch.testing.assert_close(x.grad, grad * out.detach())


def test_dropout_repeats_from_a_seed_and_not_without() -> None:
    x, layer = torch.randn(64, 33), Dropout(0.3)
    torch.manual_seed(5)
    first, second = layer(x), layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first) and not torch.equal(second, first)


def test_dropout_may_keep_or_drop_everything() -> None:
    x = torch.randn(8, 3)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros_like(x))
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert Dropout(0.5)(torch.empty(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("size", [1, 2, 10, 39])
def test_short_softmax(size: int) -> None:
    torch.manual_seed(1)
    x = torch.randn(7, 3, size, dtype=torch.float64) * 30
    torch.testing.assert_close(short_softmax(x), x.softmax(-1), rtol=1e-12, atol=1e-15)
    grad = torch.randn_like(x)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    short_softmax(ours).backward(grad)
    theirs.softmax(-1).backward(grad)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-13)
    assert torch.equal(x, ours.detach())
    half = short_softmax(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), x.bfloat16().float().softmax(-1), rtol=1e-2, atol=1e-3)


def test_short_softmax_of_scores_that_are_masked() -> None:
    x = torch.tensor([[0.0, -torch.inf, 1.0], [80.0, -80.0, 0.0]])
    torch.testing.assert_close(short_softmax(x), x.softmax(-1))
