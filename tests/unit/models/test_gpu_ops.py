"""What surrounds the kernels of a GPU; the kernels themselves are tested in tests/gpu."""

import importlib.util

import pytest
import torch

from ctrdist.errors import ConfigError
from ctrdist.models import gpu_ops


@pytest.mark.parametrize(
    "index",
    [
        [0, 1, 2],
        [3, 3, 0, 9, 3, 1],  # some several times, some never
        [5],
    ],
)
def test_the_gradient_of_picked_numbers(index, monkeypatch):
    monkeypatch.setattr(gpu_ops, "uses_kernels", lambda x: True)
    index_M = torch.tensor(index)
    places = gpu_ops.places_of(index_M, 10)
    x = torch.randn(4, 3, 10, dtype=torch.float64, requires_grad=True)
    assert torch.equal(gpu_ops.pick(x, index_M, places), x.index_select(-1, index_M))
    assert torch.autograd.gradcheck(lambda x: gpu_ops.pick(x, index_M, places), x)


def test_products_without_kernels_are_those_of_pytorch():
    left, right = torch.randn(6, 2, 5, 3), torch.randn(6, 2, 3, 4)
    assert torch.equal(gpu_ops.product(left, right), left @ right)


def test_kernels_without_triton_are_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"train\.kernels.*not installed"):
        gpu_ops.use_kernels(True)
    gpu_ops.use_kernels(False)
