"""The Triton kernels compute what float64 computes, through plain and compiled autograd.

Without a GPU, TRITON_INTERPRET=1 and CTRDIST_TEST_DEVICE=cpu run the kernels in Triton's
interpreter, where Triton is installed.
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctrdist.models import gpu_ops
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.models.dual_attention.settings import DualAttentionConfig, TransformerConfig
from ctrdist.models.registry import build_tower

DEVICE = os.environ.get("CTRDIST_TEST_DEVICE", "cuda")
kernels = pytest.importorskip(
    "ctrdist.models.triton_kernels",
    reason="needs Triton: pip install triton, or the extra gpu",
    exc_type=ImportError,
)
pytestmark = pytest.mark.skipif(
    not (os.environ.get("TRITON_INTERPRET") if DEVICE == "cpu" else torch.cuda.is_available()),
    reason="needs an NVIDIA GPU, or TRITON_INTERPRET=1 and CTRDIST_TEST_DEVICE=cpu",
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


@pytest.fixture
def on(monkeypatch) -> None:
    monkeypatch.setattr(gpu_ops, "uses_kernels", lambda x: True)


COMPILED = ["no", "aot_eager", pytest.param("inductor", marks=[ON_GPU_ONLY, pytest.mark.slow])]


@pytest.mark.parametrize("compiled", COMPILED)
def test_autograd(compiled, on):
    sizes = [(9, 2, 6, 3, 2, 8), (9, 7, 8), (9, 5, 4)]
    inputs = [torch.randn(size, device=DEVICE, requires_grad=True) for size in sizes]
    exact = [part.detach().double().requires_grad_() for part in inputs]
    qkv, left, right = exact
    expected = attention(qkv.transpose(0, 1)), left[:, :, ::2] @ right.transpose(1, 2)
    module = Both()
    if compiled != "no":
        module.compile(dynamic=False, backend=compiled)
    found = module(*inputs)
    grads = [torch.randn_like(part) for part in found]
    torch.autograd.backward(found, grads)
    torch.autograd.backward(expected, [grad.double() for grad in grads])
    for ours, theirs in zip([*found, *inputs], [*expected, *exact], strict=True):
        assert_close(ours.detach(), theirs.detach(), torch.float32)
        if ours.is_leaf:
            assert_close(ours.grad, theirs.grad, torch.float32)


TOWERS: dict[str, Any] = {
    "dlf": DLFConfig(embedding_dim=8, num_layers=2, tokens_per_block=4, rank=3, hidden_dim=16),
    "dual_attention": DualAttentionConfig(embedding_dim=8, frequency=False, hidden_dims=(16,)),
    "transformer": TransformerConfig(embedding_dim=8, hidden_dims=(16,)),
}


@pytest.mark.parametrize("name", list(TOWERS))
@pytest.mark.parametrize("compiled", COMPILED)
def test_a_tower_with_kernels_is_the_same_tower(name, compiled, on, monkeypatch):
    torch.manual_seed(0)
    tower = build_tower(name, TOWERS[name], 5).to(DEVICE)
    with_kernels = build_tower(name, TOWERS[name], 5).to(DEVICE)
    with_kernels.load_state_dict(tower.state_dict())
    if compiled != "no":
        with_kernels.compile(dynamic=False, backend=compiled)
    emb = {"tokens": torch.randn(7, 5, 8, device=DEVICE)}
    emb["pairs"] = torch.randn(7, 4, 5, 5, device=DEVICE)
    used = with_kernels(emb).logits_B
    monkeypatch.setattr(gpu_ops, "uses_kernels", lambda x: False)
    plain = tower(emb).logits_B
    torch.testing.assert_close(used, plain, rtol=1e-4, atol=1e-5)
    for logits in (used, plain):
        logits.square().sum().backward()
    for ours, theirs in zip(with_kernels.parameters(), tower.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


def test_what_a_kernel_refuses(on):
    wide = torch.zeros(1, 2, 80, 3, 1, 8, device=DEVICE)
    assert not gpu_ops.fits_attention(wide, 1, 80)
    assert not gpu_ops.fits_attention(wide.double(), 1, 8)
    assert gpu_ops.fits_attention(wide, 1, 39)
