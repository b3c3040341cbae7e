"""The Triton kernels compute what float64 computes, through plain and compiled autograd.

Without a GPU, TRITON_INTERPRET=1 and CTRDIST_TEST_DEVICE=cpu run the kernels in Triton's
interpreter, where Triton is installed.
"""

import os

import pytest
import torch
from torch import Tensor, nn

from ctrdist.models import gpu_ops

DEVICE = os.environ.get("CTRDIST_TEST_DEVICE", "cuda")
kernels = pytest.importorskip("ctrdist.models.triton_kernels", exc_type=ImportError)
pytestmark = pytest.mark.skipif(
    not (os.environ.get("TRITON_INTERPRET") if DEVICE == "cpu" else torch.cuda.is_available()),
    reason="needs an NVIDIA GPU, or Triton's interpreter",
)
ON_GPU_ONLY = pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")

# the interpreter's bfloat16 products are wrong
HALF = torch.float16 if DEVICE == "cpu" else torch.bfloat16
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def attention(qkv_IBM3HE: Tensor) -> Tensor:
    query, key, value = qkv_IBM3HE.unbind(3)
    score = torch.einsum("ibmhe,jbnhe->ibmjhn", query, key) * query.shape[-1] ** -0.5
    return torch.einsum("ibmjhn,jbnhe->ibmjhe", score.softmax(-1), value)


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    assert found.shape == expected.shape
    error = (found.double() - expected).norm() / expected.norm()
    assert error < TOLERANCE[dtype]  # not if it is NaN


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize(
    "shape",  # I, B, M, 3, H, E
    [(3, 5, 16, 3, 2, 8), (1, 4, 39, 3, 2, 8), (2, 3, 4, 3, 1, 4), (3, 2, 5, 3, 3, 20)],
)
def test_attention(shape, dtype):
    qkv = torch.randn(shape, device=DEVICE, dtype=dtype)
    exact = qkv.double().requires_grad_()
    expected = attention(exact)
    grad = torch.randn(expected.shape, device=DEVICE, dtype=dtype)
    expected.backward(grad.double())
    assert_close(kernels.attention_forward(qkv), expected, dtype)
    assert_close(kernels.attention_backward(qkv, grad), exact.grad, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("sizes", [(5, 96, 16, 24), (3, 39, 16, 24), (2, 5, 8, 3)])  # B, N, D, R
def test_product(sizes, transposed, dtype):
    batch, tokens, inner, columns = sizes
    left = torch.randn(batch, tokens, inner, device=DEVICE, dtype=dtype)
    if transposed:
        left = left.transpose(1, 2).contiguous().transpose(1, 2)
    right = torch.randn(batch, inner, columns, device=DEVICE, dtype=dtype)
    exact = [part.double().requires_grad_() for part in (left, right)]
    expected = torch.bmm(*exact)
    grad = torch.randn(expected.shape, device=DEVICE, dtype=dtype)
    expected.backward(grad.double())
    assert_close(kernels.product_forward(left, right), expected, dtype)
    for found, reference in zip(kernels.product_backward(left, right, grad), exact, strict=True):
        assert_close(found, reference.grad, dtype)


class Both(nn.Module):
    """Both operations, on tensors that the operations must first copy."""

    def forward(self, qkv: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        attended = gpu_ops.attention(qkv.transpose(0, 1))
        return attended, gpu_ops.product(left[:, :, ::2], right.transpose(1, 2))


@ON_GPU_ONLY
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_autograd(compiled):
    sizes = [(9, 2, 6, 3, 2, 8), (9, 7, 8), (9, 5, 4)]
    inputs = [torch.randn(size, device="cuda", requires_grad=True) for size in sizes]
    exact = [part.detach().double().requires_grad_() for part in inputs]
    qkv, left, right = exact
    expected = attention(qkv.transpose(0, 1)), left[:, :, ::2] @ right.transpose(1, 2)
    module = Both()
    if compiled:
        module.compile(dynamic=False)
    found = module(*inputs)
    grads = [torch.randn_like(part) for part in found]
    torch.autograd.backward(found, grads)
    torch.autograd.backward(expected, [grad.double() for grad in grads])
    for ours, theirs in zip([*found, *inputs], [*expected, *exact], strict=True):
        assert_close(ours.detach(), theirs.detach(), torch.float32)
        if ours.is_leaf:
            assert_close(ours.grad, theirs.grad, torch.float32)


@ON_GPU_ONLY
def test_what_a_kernel_refuses():
    wide = torch.zeros(1, 2, 80, 3, 1, 8, device="cuda")
    assert not gpu_ops.fits_attention(wide, 1, 80)
    assert not gpu_ops.fits_attention(wide.double(), 1, 8)
    assert gpu_ops.fits_attention(wide, 1, 39)
