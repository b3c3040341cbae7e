"""Operations on many tiny matrices, for which a GPU with Triton has kernels of our own.

The setting train.kernels switches them on. PyTorch sees each kernel as one operation, so
torch.compile works around it. They are imported when the first of them runs: on a CPU nothing needs
Triton.
"""

# B batch, I blocks (as queries), J blocks (as keys), M tokens per block, H heads, E width of a
# head, N numbers or tokens, D inner axis, R columns, M picked numbers, T places

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ctrdist.errors import ConfigError

_enabled = False
_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST_TOKENS, _MOST_QUERIES, _MOST_WIDTH = 64, 256, 64
"""Largest M, I · M, and E, D or R of a kernel, whose tiles lie in registers."""


def use_kernels(on: bool) -> None:
    """Switches the kernels on or off in this process.

    Raises:
        ConfigError: there is no Triton.
    """
    global _enabled
    if on and importlib.util.find_spec("triton") is None:
        raise ConfigError(
            "train.kernels = triton, and Triton is not installed here. It comes with PyTorch for "
            "NVIDIA GPUs: install that, or leave train.kernels out."
        )
    _enabled = on


def uses_kernels(x: Tensor) -> bool:
    """Tells whether operations on x use kernels where they can."""
    return _enabled and x.is_cuda


def fits_attention(x: Tensor, blocks: int, tokens: int) -> bool:
    """Tells whether :func:`attention` can compute this; the last axis of x is a head's width."""
    small = tokens <= _MOST_TOKENS and blocks * tokens <= _MOST_QUERIES
    return uses_kernels(x) and x.dtype in _TYPES and small and x.shape[-1] <= _MOST_WIDTH


def attention(qkv_IBM3HE: Tensor) -> Tensor:
    """Scaled dot-product attention of each block's tokens to each block's, one softmax for each.

    qkv_IBM3HE: queries, keys and values of the tokens, see :func:`fits_attention`; gives
    (I, B, M, J, H, E). Only they are kept for the backward pass, and no attention map.
    """
    return _attention(qkv_IBM3HE.contiguous())


def product(left: Tensor, right: Tensor) -> Tensor:
    """Products of many small matrices: (…, N, D) @ (…, D, R), of equal leading sizes.

    Gives (…, N, R). Without a kernel for these it is PyTorch's product.
    """
    tokens, inner = left.shape[-2:]
    small = tokens <= _MOST_QUERIES and max(inner, right.shape[-1]) <= _MOST_WIDTH
    if not (small and uses_kernels(right) and right.dtype in _TYPES):
        return left @ right
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else right.dtype
    left_BND, right_BDR = (_dense(x.to(dtype).flatten(0, -3)) for x in (left, right))
    return _product(left_BND, right_BDR).unflatten(0, left.shape[:-2])


def _dense(x_BND: Tensor) -> Tensor:
    """The same, copied if its numbers do not lie side by side."""
    dense = x_BND.is_contiguous() or x_BND.transpose(1, 2).is_contiguous()
    return x_BND if dense else x_BND.contiguous()


def pick(x: Tensor, index_M: Tensor, places_NT: Tensor) -> Tensor:
    """x[..., index_M], of which a GPU may compute the gradient by reading instead of adding.

    Args:
        x: (…, N).
        index_M: of the numbers to take, any number of times.
        places_NT: the places of each of the N numbers in the result, up to T; filled up with M.
            See :func:`places_of`.
    """
    if not uses_kernels(x):
        return x.index_select(-1, index_M)
    return _Pick.apply(x, index_M, places_NT)


def places_of(index_M: Tensor, numbers: int) -> Tensor:
    """(N, T) places of each of N = `numbers` numbers in index_M, filled up with M."""
    count_N = torch.bincount(index_M, minlength=numbers)
    order_M = torch.argsort(index_M, stable=True)
    rank_M = torch.arange(len(index_M)) - (count_N.cumsum(0) - count_N)[index_M[order_M]]
    places_NT = torch.full((numbers, max(int(count_N.max()), 1)), len(index_M))
    places_NT[index_M[order_M], rank_M] = order_M
    return places_NT


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index_M: Tensor, places_NT: Tensor) -> Tensor:
        ctx.save_for_backward(places_NT)
        return x.index_select(-1, index_M)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (places_NT,) = ctx.saved_tensors
        padded = functional.pad(grads[0], (0, 1))
        read = [padded.index_select(-1, places_N) for places_N in places_NT.unbind(1)]
        return sum(read[1:], read[0]), None, None


@torch.library.custom_op("ctrdist::attention", mutates_args=())
def _attention(qkv: Tensor) -> Tensor:
    from ctrdist.models.triton_kernels import attention_forward

    return attention_forward(qkv)


@torch.library.custom_op("ctrdist::attention_backward", mutates_args=())
def _attention_backward(qkv: Tensor, grad: Tensor) -> Tensor:
    from ctrdist.models.triton_kernels import attention_backward

    return attention_backward(qkv, grad.contiguous())


@torch.library.custom_op("ctrdist::product", mutates_args=())
def _product(left: Tensor, right: Tensor) -> Tensor:
    from ctrdist.models.triton_kernels import product_forward

    return product_forward(left, right)


@torch.library.custom_op("ctrdist::product_backward", mutates_args=())
def _product_backward(left: Tensor, right: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    from ctrdist.models.triton_kernels import product_backward

    return product_backward(left, right, grad.contiguous())


@_attention.register_fake
def _(qkv: Tensor) -> Tensor:
    blocks, batch, tokens, _, heads, width = qkv.shape
    return qkv.new_empty(blocks, batch, tokens, blocks, heads, width)


@_product.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], left.shape[1], right.shape[2])


@_attention_backward.register_fake
def _(qkv: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(qkv)


@_product_backward.register_fake
def _(left: Tensor, right: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(left), torch.empty_like(right)


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


_attention.register_autograd(
    lambda ctx, grad: _attention_backward(*ctx.saved_tensors, grad), setup_context=_keep_inputs
)
_product.register_autograd(
    lambda ctx, grad: _product_backward(*ctx.saved_tensors, grad), setup_context=_keep_inputs
)
