"""Pieces that models share. Linear layers start as Xavier normal with bias 0."""

# B batch, N tokens, M tokens after a map, K numeric fields, D embedding dim, H heads, E = D / H,
# X queries, M keys

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_CPU_ROWS = 256
"""Rows whose attention maps fit into the cache together."""


def linear(in_dim: int, out_dim: int, *, bias: bool = True) -> nn.Linear:
    """A Linear layer with Xavier-normal weights and bias 0."""
    layer = nn.Linear(in_dim, out_dim, bias=bias)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Sequential):
    """Per hidden width: Linear → BatchNorm (where on) → ReLU → Dropout; then an optional Linear.

    (B, in_dim) → (B, out_dim), or (B, last hidden width) without an out_dim.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int | None = None,
        *,
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        layers: list[nn.Module] = []
        for width in hidden_dims:
            layers.append(linear(in_dim, width))
            if batch_norm:
                layers.append(nn.BatchNorm1d(width))
            layers += [nn.ReLU(), nn.Dropout(dropout)]
            in_dim = width
        if out_dim is not None:
            layers.append(linear(in_dim, out_dim))
        super().__init__(*layers)


class TokenLinear(nn.Module):
    """Linear map along the token axis: out[b, m] = Σ_n W[n, m] x[b, n] (+ bias[m])."""

    def __init__(self, in_tokens: int, out_tokens: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight_NM = token_weight(in_tokens, out_tokens)
        self.bias_M = nn.Parameter(torch.zeros(out_tokens)) if bias else None

    def forward(self, x_BND: Tensor) -> Tensor:
        """x_BND: (B, N, D); gives (B, M, D)."""
        # One product over all B·D columns: B small ones would need a (B, N, M) gradient of W.
        return functional.linear(x_BND.transpose(1, 2), self.weight_NM.T, self.bias_M).transpose(
            1, 2
        )


def token_weight(in_tokens: int, out_tokens: int) -> nn.Parameter:
    """(N, M) weight of a map along the token axis, Kaiming uniform as in the DLF and Wukong code.

    There the second axis counts as fan-in, so the bound is sqrt(6 / M).
    """
    weight_NM = nn.Parameter(torch.empty(in_tokens, out_tokens))
    nn.init.kaiming_uniform_(weight_NM)
    return weight_NM


class NumericEmbedding(nn.Module):
    """One vector per numeric field, times the field's value: (B, K) → (B, K, D)."""

    def __init__(self, num_fields: int, dim: int) -> None:
        super().__init__()
        self.weight_KD = nn.Parameter(torch.empty(num_fields, dim))
        # Xavier normal of K maps from 1 value to D, not of one (K, D) matrix.
        nn.init.normal_(self.weight_KD, std=(2.0 / (1 + dim)) ** 0.5)

    def forward(self, value_BK: Tensor) -> Tensor:
        """value_BK: (B, K); gives (B, K, D)."""
        return value_BK.unsqueeze(-1) * self.weight_KD


def cpu_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What scaled_dot_product_attention computes, for many small problems on a CPU.

    PyTorch's fused CPU kernel pays per problem: with 16 tokens and heads of width 8 these products
    make the whole step a quarter faster, at the price of keeping the attention maps for backward.

    Args:
        query: (B, H, X, E).
        key: (B, H, M, E).
        value: (B, H, M, E).

    Returns:
        (B, H, X, E).
    """
    scale = query.shape[-1] ** -0.5
    parts = [part.split(_CPU_ROWS) for part in (query * scale, key.transpose(2, 3), value)]
    return torch.cat([_softmax(q @ k).to(v.dtype) @ v for q, k, v in zip(*parts, strict=True)])


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis, in at least float32: in bfloat16 it is slow on a CPU."""
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
