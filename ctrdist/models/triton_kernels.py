"""Products of many tiny matrices on a GPU, in Triton.

A library's kernels cut products into tiles of 64 × 64 numbers or more, so products of 16 rows and 8
columns leave most of the processor idle. Here one program takes all tiny matrices of one row of the
batch. It reads each number once and keeps nothing between forward and backward but its inputs.

Imported only where there is Triton: see :mod:`ctrdist.models.gpu_ops`.
"""

# B batch; attention: J blocks, each query and key, M tokens per block, H heads, E width of a
# head, X = J · M; product: N tokens, D inner axis, R columns.
# A tile has powers of two as sizes: XT ≥ X, MT ≥ M, ET ≥ E, and so on.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_LEAST_TILE = 16
"""Least size of each axis of a tile that is multiplied."""


@triton.jit
def _attention_forward(
    qkv_ptr, out_ptr, batch, scale,
    J: tl.constexpr, M: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    XT: tl.constexpr, MT: tl.constexpr, ET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x, m, e = tl.arange(0, XT), tl.arange(0, MT), tl.arange(0, ET)
    x_ok, m_ok, e_ok = x < J * M, m < M, e < E
    token_x = ((x // M) * batch + row) * M + x % M
    for h in tl.range(H, num_stages=1):
        q_ptr = qkv_ptr + token_x[:, None] * (3 * H * E) + h * E + e[None, :]
        q = tl.load(q_ptr, mask=x_ok[:, None] & e_ok[None, :], other=0.0)
        for j in tl.range(J, num_stages=1):
            token_m = (j * batch + row) * M + m
            k_ptr = qkv_ptr + token_m[:, None] * (3 * H * E) + (H + h) * E + e[None, :]
            ok = m_ok[:, None] & e_ok[None, :]
            k = tl.load(k_ptr, mask=ok, other=0.0)
            v = tl.load(k_ptr + H * E, mask=ok, other=0.0)
            score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
            score = tl.where(m_ok[None, :], score, float("-inf"))
            part = tl.exp(score - tl.max(score, 1)[:, None])
            share = part / tl.sum(part, 1)[:, None]
            out = tl.dot(share.to(v.dtype), v, input_precision=PRECISION)
            to = out_ptr + token_x[:, None] * (J * H * E) + (j * H + h) * E + e[None, :]
            tl.store(to, out.to(v.dtype), mask=x_ok[:, None] & e_ok[None, :])


@triton.jit
def _attention_backward(
    qkv_ptr, grad_ptr, dqkv_ptr, batch, scale,
    J: tl.constexpr, M: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    XT: tl.constexpr, MT: tl.constexpr, ET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x, m, e = tl.arange(0, XT), tl.arange(0, MT), tl.arange(0, ET)
    x_ok = (x < J * M)[:, None] & (e < E)[None, :]
    m_ok = m < M
    token_x = ((x // M) * batch + row) * M + x % M
    for h in tl.range(H, num_stages=1):
        q_at = token_x[:, None] * (3 * H * E) + h * E + e[None, :]
        q = tl.load(qkv_ptr + q_at, mask=x_ok, other=0.0)
        dq = tl.zeros((XT, ET), dtype=tl.float32)
        for j in tl.range(J, num_stages=1):
            token_m = (j * batch + row) * M + m
            k_at = token_m[:, None] * (3 * H * E) + (H + h) * E + e[None, :]
            ok = m_ok[:, None] & (e < E)[None, :]
            k = tl.load(qkv_ptr + k_at, mask=ok, other=0.0)
            v = tl.load(qkv_ptr + k_at + H * E, mask=ok, other=0.0)
            grad_at = token_x[:, None] * (J * H * E) + (j * H + h) * E + e[None, :]
            grad = tl.load(grad_ptr + grad_at, mask=x_ok, other=0.0)
            score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
            score = tl.where(m_ok[None, :], score, float("-inf"))
            part = tl.exp(score - tl.max(score, 1)[:, None])
            share = part / tl.sum(part, 1)[:, None]
            dv = tl.dot(tl.trans(share.to(v.dtype)), grad, input_precision=PRECISION)
            dshare = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
            dscore = share * (dshare - tl.sum(share * dshare, 1)[:, None]) * scale
            dscore = dscore.to(v.dtype)
            dk = tl.dot(tl.trans(dscore), q, input_precision=PRECISION)
            dq += tl.dot(dscore, k, input_precision=PRECISION)
            tl.store(dqkv_ptr + k_at, dk.to(v.dtype), mask=ok)
            tl.store(dqkv_ptr + k_at + H * E, dv.to(v.dtype), mask=ok)
        tl.store(dqkv_ptr + q_at, dq.to(q.dtype), mask=x_ok)


@triton.jit
def _product_forward(
    left_ptr, right_ptr, out_ptr, left_b, left_n, left_d, right_b, right_d, right_r,
    N: tl.constexpr, D: tl.constexpr, R: tl.constexpr,
    NT: tl.constexpr, DT: tl.constexpr, RT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    n, d, r = tl.arange(0, NT)[:, None], tl.arange(0, DT), tl.arange(0, RT)[None, :]
    at = left_ptr + row * left_b + n * left_n + d[None, :] * left_d
    left = tl.load(at, mask=(n < N) & (d[None, :] < D), other=0.0)
    at = right_ptr + row * right_b + d[:, None] * right_d + r * right_r
    right = tl.load(at, mask=(d[:, None] < D) & (r < R), other=0.0)
    out = tl.dot(left, right, input_precision=PRECISION).to(left.dtype)
    tl.store(out_ptr + row * (N * R) + n * R + r, out, mask=(n < N) & (r < R))


@triton.jit
def _product_backward(
    left_ptr, right_ptr, grad_ptr, dleft_ptr, dright_ptr,
    left_b, left_n, left_d, right_b, right_d, right_r,
    N: tl.constexpr, D: tl.constexpr, R: tl.constexpr,
    NT: tl.constexpr, DT: tl.constexpr, RT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    n, d, r = tl.arange(0, NT)[:, None], tl.arange(0, DT), tl.arange(0, RT)[None, :]
    left_ok, right_ok = (n < N) & (d[None, :] < D), (d[:, None] < D) & (r < R)
    left_at = row * left_b + n * left_n + d[None, :] * left_d
    left = tl.load(left_ptr + left_at, mask=left_ok, other=0.0)
    right_at = row * right_b + d[:, None] * right_d + r * right_r
    right = tl.load(right_ptr + right_at, mask=right_ok, other=0.0)
    at = grad_ptr + row * (N * R) + n * R + r
    grad = tl.load(at, mask=(n < N) & (r < R), other=0.0)
    dleft = tl.dot(grad, tl.trans(right), input_precision=PRECISION)
    tl.store(dleft_ptr + left_at, dleft.to(left.dtype), mask=left_ok)
    dright = tl.dot(tl.trans(left), grad, input_precision=PRECISION)
    tl.store(dright_ptr + right_at, dright.to(left.dtype), mask=right_ok)


def attention_forward(qkv_IBM3HE: Tensor) -> Tensor:
    """Gives (I, B, M, J, H, E), see :func:`ctrdist.models.gpu_ops.attention`; contiguous input."""
    blocks, batch, tokens, _, heads, width = qkv_IBM3HE.shape
    out = qkv_IBM3HE.new_empty(blocks, batch, tokens, blocks, heads, width)
    _attention_forward[(batch,)](
        qkv_IBM3HE, out, batch, width**-0.5, **_attention_tiles(qkv_IBM3HE)
    )
    return out


def attention_backward(qkv_IBM3HE: Tensor, grad_IBMJHE: Tensor) -> Tensor:
    """Gives the gradient of contiguous queries, keys and values."""
    batch, width = qkv_IBM3HE.shape[1], qkv_IBM3HE.shape[5]
    dqkv = torch.empty_like(qkv_IBM3HE)
    tiles = _attention_tiles(qkv_IBM3HE)
    _attention_backward[(batch,)](qkv_IBM3HE, grad_IBMJHE, dqkv, batch, width**-0.5, **tiles)
    return dqkv


def product_forward(left_BND: Tensor, right_BDR: Tensor) -> Tensor:
    """Gives (B, N, R); the inputs may have any strides."""
    out = left_BND.new_empty(*left_BND.shape[:2], right_BDR.shape[2])
    strides = *left_BND.stride(), *right_BDR.stride()
    tiles = _product_tiles(left_BND, right_BDR)
    _product_forward[(len(out),)](left_BND, right_BDR, out, *strides, **tiles)
    return out


def product_backward(
    left_BND: Tensor, right_BDR: Tensor, grad_BNR: Tensor
) -> tuple[Tensor, Tensor]:
    """Gives both gradients, with the strides of the inputs; all must be dense, grad contiguous."""
    dleft, dright = torch.empty_like(left_BND), torch.empty_like(right_BDR)
    strides = *left_BND.stride(), *right_BDR.stride()
    tiles = _product_tiles(left_BND, right_BDR)
    _product_backward[(len(dleft),)](
        left_BND, right_BDR, grad_BNR, dleft, dright, *strides, **tiles
    )
    return dleft, dright


def _attention_tiles(qkv_IBM3HE: Tensor) -> dict[str, Any]:
    blocks, _, tokens, _, heads, width = qkv_IBM3HE.shape
    tiles = {"XT": _tile(blocks * tokens), "MT": _tile(tokens), "ET": _tile(width)}
    return {
        **{"J": blocks, "M": tokens, "H": heads, "E": width},
        **tiles,
        "PRECISION": _precision(),
        "num_warps": _warps(qkv_IBM3HE, tiles["XT"] * max(tiles["MT"], tiles["ET"])),
    }


def _product_tiles(left_BND: Tensor, right_BDR: Tensor) -> dict[str, Any]:
    sizes = {"N": left_BND.shape[1], "D": left_BND.shape[2], "R": right_BDR.shape[2]}
    tiles = {f"{name}T": _tile(size) for name, size in sizes.items()}
    warps = _warps(right_BDR, tiles["NT"] * max(tiles["DT"], tiles["RT"]))
    return {**sizes, **tiles, "PRECISION": _precision(), "num_warps": warps}


def _tile(size: int) -> int:
    return max(_LEAST_TILE, triton.next_power_of_2(size))


def _warps(like: Tensor, numbers: int) -> int:
    """Warps of a program whose largest tile has so many numbers: with others, registers spill."""
    return min(max(numbers * like.element_size() // 2048, 1), 4)


def _precision() -> str:
    """Returns the precision of float32 products, by PyTorch's setting.

    tf32x3 is nearly as exact as float32.
    """
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
