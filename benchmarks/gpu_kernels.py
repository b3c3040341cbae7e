"""Milliseconds of the Triton kernels beside PyTorch's products, by warps of a program.

python benchmarks/gpu_kernels.py

The sizes are those of DLF, the transformer and DEA-R at their defaults with 65,536 rows. Forward
and backward stand apart. The floor is each input read and each output written once by a copy.
"""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from triton.testing import do_bench

from ctrdist.models import gpu_ops, triton_kernels
from ctrdist.models.dlf.tower import AttentionFusion
from ctrdist.models.layers import short_attention

ROWS = 65536
ATTENTION = {"DLF": (3, ROWS, 16, 3, 2, 8), "transformer": (1, ROWS, 39, 3, 2, 8)}
"""(I, B, M, 3, H, E)."""
PRODUCTS = {
    "DLF, layer 1": (ROWS, 39, 16, 24),
    "DLF, layer 2": (ROWS, 96, 16, 24),
    "DEA-R, scores": (2 * ROWS, 39, 8, 39),
    "DEA-R, values": (2 * ROWS, 39, 39, 8),
}
"""(B, N, D, R)."""
WARPS = (1, 2, 4, 8)


def ms(work: Callable[[], object]) -> float:
    return do_bench(work, warmup=3, rep=12, return_mode="median")


def by_warps(forward: Callable[[], object], backward: Callable[[], object]) -> str:
    """Times of both kernels for each number of warps; the chosen one is marked."""
    chosen, found = triton_kernels._warps, []
    for warps in (None, *WARPS):
        triton_kernels._warps = chosen if warps is None else lambda *_, n=warps: n
        name = "as chosen" if warps is None else f"{warps} warps"
        found.append(f"{name} {ms(forward):.2f} + {ms(backward):.2f}")
    triton_kernels._warps = chosen
    return "; ".join(found)


def plain(work: Callable[[], Tensor], inputs: list[Tensor]) -> str:
    """Times of PyTorch's forward pass, and of its backward pass as the difference."""
    grad = torch.randn_like(work())
    with torch.no_grad():
        forward = ms(work)
    both = ms(lambda: torch.autograd.grad(work(), inputs, grad))
    return f"PyTorch {forward:.2f} + {both - forward:.2f}"


def measure_attention(name: str, dtype: torch.dtype, copy: float) -> None:
    blocks, _, _, _, heads, width = ATTENTION[name]
    qkv = torch.randn(ATTENTION[name], device="cuda", dtype=dtype, requires_grad=True)
    out = triton_kernels.attention_forward(qkv.detach())
    grad = torch.randn_like(out)
    ours = by_warps(
        lambda: triton_kernels.attention_forward(qkv.detach()),
        lambda: triton_kernels.attention_backward(qkv.detach(), grad),
    )
    if blocks > 1:
        layer = AttentionFusion(blocks, heads * width, heads)
        theirs = plain(lambda: layer._attend(qkv), [qkv])
    else:
        query, key, value = (part.transpose(1, 2) for part in qkv[0].unbind(2))
        theirs = plain(lambda: short_attention(query, key, value), [qkv])
    show(f"attention of {name}", dtype, ours, theirs, floors([qkv], out, copy))


def measure_product(name: str, dtype: torch.dtype, copy: float) -> None:
    batch, tokens, inner, columns = PRODUCTS[name]
    left = torch.randn(batch, tokens, inner, device="cuda", dtype=dtype, requires_grad=True)
    right = torch.randn(batch, inner, columns, device="cuda", dtype=dtype, requires_grad=True)
    parts = left.detach(), right.detach()
    out = triton_kernels.product_forward(*parts)
    grad = torch.randn_like(out)
    ours = by_warps(
        lambda: triton_kernels.product_forward(*parts),
        lambda: triton_kernels.product_backward(*parts, grad),
    )
    theirs = plain(lambda: left @ right, [left, right])
    show(f"product of {name}", dtype, ours, theirs, floors([left, right], out, copy))


def floors(inputs: list[Tensor], out: Tensor, copy: float) -> str:
    """Times of a copy of what forward moves, and of what backward moves."""
    read = sum(part.numel() for part in inputs)
    forward, backward = (1e3 * out.element_size() * (n * read + out.numel()) / copy for n in (1, 2))
    return f"floor {forward:.2f} + {backward:.2f}"


def show(name: str, dtype: torch.dtype, *found: str) -> None:
    print(f"{name}, {str(dtype).removeprefix('torch.')}: {'; '.join(found)}", flush=True)


def main() -> None:
    gpu_ops.use_kernels(False)  # PyTorch's products beside them
    copied = torch.zeros(2**29, device="cuda")
    copy = 2e3 * copied.nbytes / ms(copied.clone)
    print(f"{torch.cuda.get_device_name()}; a copy moves {copy / 1e9:.0f} GB/s")
    for dtype in (torch.bfloat16, torch.float32):
        for name in ATTENTION:
            measure_attention(name, dtype, copy)
            torch.cuda.empty_cache()
        for name in PRODUCTS:
            measure_product(name, dtype, copy)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
