"""Layers that models share. Linear layers start as Xavier normal with bias 0."""

# B batch, N tokens, M tokens after a map, K numeric fields, D embedding dim, H heads, E = D / H,
# X queries, M keys

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctrdist.models import gpu_ops

_SHORT_TOKENS = 64
"""Largest number of keys for which a GPU computes attention by plain products."""
_FUSED_ROWS = 32768
"""Rows per call of a fused kernel on a GPU, which accepts fewer than 65,536."""
_CPU_ROWS = 256
"""Rows whose attention maps fit into the cache together."""
_CHANCES = 2**16
"""Values of the 16 bits that a CPU draws for each number."""


def linear(in_dim: int, out_dim: int, *, bias: bool = True) -> nn.Linear:
    """Returns a Linear layer with Xavier-normal weights and bias 0."""
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
            layers += [nn.ReLU(), Dropout(dropout)]
            in_dim = width
        if out_dim is not None:
            layers.append(linear(in_dim, out_dim))
        super().__init__(*layers)


def mlp_of(config: Any, in_dim: int, hidden_dims: Sequence[int], out_dim: int | None = None) -> MLP:
    """Returns an MLP with the dropout and the batch normalisation of a model's settings."""
    return MLP(in_dim, hidden_dims, out_dim, dropout=config.dropout, batch_norm=config.batch_norm)


class Dropout(nn.Dropout):
    """nn.Dropout, faster on a CPU.

    PyTorch makes one draw per number there, which took up to 40 % of a training step. Here four
    numbers share a draw of 64 bits. So p is rounded to a multiple of 1/65,536, and kept numbers are
    scaled by exactly 1 / (1 − p).
    """

    def forward(self, input: Tensor) -> Tensor:
        """input: any size; gives the same size."""
        if not self.training or not input.is_cpu or torch.compiler.is_compiling():
            return super().forward(input)
        dropped = round(self.p * _CHANCES)
        if dropped in (0, _CHANCES):
            return super().forward(input)
        return _CpuDropout.apply(input, dropped)


class _CpuDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int) -> Tensor:
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        drawn = words.view(torch.int16)[: x.numel()].view(x.shape)
        scale = _CHANCES / (_CHANCES - dropped)
        kept = (drawn >= dropped - _CHANCES // 2).to(x.dtype).mul_(scale)
        ctx.save_for_backward(kept)
        return x * kept

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return grads[0] * kept, None


def short_softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis, faster than PyTorch's on a CPU if that axis is short.

    PyTorch's takes four to five times as long for ten numbers. Half precisions are computed in
    float32; the result has the type of x.
    """
    if not x.is_cpu or torch.compiler.is_compiling():
        return x.softmax(-1)
    return _ShortSoftmax.apply(x)


class _ShortSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        e = (wide - wide.amax(-1, keepdim=True)).exp_()
        share = e.div_(e.sum(-1, keepdim=True)).to(x.dtype)
        ctx.save_for_backward(share)
        return share

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (share,) = ctx.saved_tensors
        weighted = grads[0] * share
        return weighted.addcmul_(share, weighted.sum(-1, keepdim=True), value=-1)


class TokenLinear(nn.Module):
    """Linear map along the token axis: out[b, m] = Σ_n W[n, m] x[b, n] (+ bias[m])."""

    def __init__(self, in_tokens: int, out_tokens: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight_NM = token_weight(in_tokens, out_tokens)
        self.bias_M = nn.Parameter(torch.zeros(out_tokens)) if bias else None

    def forward(self, x_BND: Tensor) -> Tensor:
        """x_BND: (B, N, D); gives (B, M, D)."""
        # one product over all B·D columns: B small ones would need a (B, N, M) gradient of W
        x_BDM = functional.linear(x_BND.transpose(1, 2), self.weight_NM.T, self.bias_M)
        return x_BDM.transpose(1, 2)


def token_weight(in_tokens: int, out_tokens: int) -> nn.Parameter:
    """(N, M) weight of a map along the token axis, Kaiming uniform as in the DLF and Wukong code.

    The second axis counts as fan-in there, so the bound is sqrt(6 / M).
    """
    weight_NM = nn.Parameter(torch.empty(in_tokens, out_tokens))
    nn.init.kaiming_uniform_(weight_NM)
    return weight_NM


class NumericEmbedding(nn.Module):
    """One vector per numeric field, times the field's value: (B, K) → (B, K, D)."""

    def __init__(self, num_fields: int, dim: int) -> None:
        super().__init__()
        self.weight_KD = nn.Parameter(torch.empty(num_fields, dim))
        # Xavier normal for K maps from 1 value to D, not for one (K, D) matrix
        nn.init.normal_(self.weight_KD, std=(2.0 / (1 + dim)) ** 0.5)

    def forward(self, value_BK: Tensor) -> Tensor:
        """value_BK: (B, K); gives (B, K, D)."""
        return value_BK.unsqueeze(-1) * self.weight_KD


def short_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention for many rows of few tokens.

    PyTorch's fused kernels have a cost per row and head. On a CPU, with 16 tokens and heads of
    width 8, plain products make the whole step a quarter faster; on an H200 they take half the time
    of the best fused kernel. In return the attention maps are kept for the backward pass, unless a
    kernel of :mod:`ctrdist.models.gpu_ops` is used.

    query: (B, H, X, E), key and value: (B, H, M, E); gives (B, H, X, E).
    """
    if query.shape == key.shape and gpu_ops.fits_attention(query, 1, key.shape[2]):
        of_one_block = torch.stack([part.transpose(1, 2) for part in (query, key, value)], 2)
        return gpu_ops.attention(of_one_block.unsqueeze(0))[0, :, :, 0].transpose(1, 2)
    if query.is_cuda and key.shape[2] > _SHORT_TOKENS:
        parts = [part.split(_FUSED_ROWS) for part in (query, key, value)]
        fused = functional.scaled_dot_product_attention
        return torch.cat([fused(*qkv) for qkv in zip(*parts, strict=True)])
    scale = query.shape[-1] ** -0.5
    scaled, key = query * scale, key.transpose(2, 3)
    if query.is_cuda:
        return short_softmax(scaled @ key) @ value
    parts = [part.split(_CPU_ROWS) for part in (scaled, key, value)]
    return torch.cat([short_softmax(q @ k) @ v for q, k, v in zip(*parts, strict=True)])
