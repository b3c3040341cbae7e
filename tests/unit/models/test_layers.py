from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ctrdist.models.layers import MLP, NumericEmbedding, TokenLinear, linear, token_weight


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
    block = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    assert kinds == [*block, *block, nn.Linear]
    assert [type(layer) for layer in MLP(4, [8], batch_norm=False)] == [
        nn.Linear,
        nn.ReLU,
        nn.Dropout,
    ]
    assert MLP(4, [8, 6])(torch.randn(3, 4)).shape == (3, 6)
    assert MLP(4, [8, 6], 2)(torch.randn(3, 4)).shape == (3, 2)
