"""Copies of codebooks on CPU workers: what FBGEMM's dense CPU lookup lacks for them."""

# N ids

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.batched_embedding_kernel import BatchedDenseEmbedding

from ctrdist.sharding.lookups import lookups


def unpool_copies(model: nn.Module) -> None:
    """Lets data-parallel tables that are not pooled give a vector per id on the CPU.

    FBGEMM's dense CPU lookup ignores that it was asked not to pool, and adds up each row's vectors.
    With each id as a row of its own there is nothing to add.

    Args:
        model: sharded, on the CPU.
    """
    for lookup in lookups(model):
        if isinstance(lookup, BatchedDenseEmbedding):
            assert len(lookup.config.embedding_tables) == 1, "a collection for each codebook"
            tables = lookup.emb_module
            # an attribute of the instance goes before the method of its class
            tables.forward = _OneByOne(tables.forward)


class _OneByOne:
    """Stands for the forward method of a table."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward

    def __call__(self, indices: Tensor, offsets: Tensor, *others: Any, **named: Any) -> Tensor:
        """(N, D); the given offsets, of several ids each, are not used."""
        single_N = torch.arange(len(indices) + 1, dtype=offsets.dtype, device=offsets.device)
        return self._forward(indices, single_N, *others, **named)
