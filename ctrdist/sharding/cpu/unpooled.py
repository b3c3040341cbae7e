"""Lookup of copied codebooks on CPU workers, which FBGEMM's dense CPU lookup would pool."""

# N ids, D columns

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.batched_embedding_kernel import BatchedDenseEmbedding

from ctrdist.sharding.torchrec_internals import TableLookup, table_groups


def copied_lookups(model: nn.Module) -> Iterator[CopiedLookup]:
    """A lookup for each data-parallel table of a sharded model that is not pooled."""
    for group in table_groups(model):
        if isinstance(group, BatchedDenseEmbedding):
            assert len(group.config.embedding_tables) == 1, "a collection for each codebook"
            yield CopiedLookup(group.emb_module)


class CopiedLookup(TableLookup):
    """Gives a vector per id.

    FBGEMM's dense CPU lookup ignores that it was asked not to pool, and adds up each row's vectors.
    Here each id is a row of its own, so there is nothing to add.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._forward = module.forward

    def __call__(self, indices: Tensor, offsets: Tensor, *others: Any, **named: Any) -> Tensor:
        """(N, D); the given offsets, of several ids each, are not used."""
        single_N = torch.arange(len(indices) + 1, dtype=offsets.dtype, device=offsets.device)
        return self._forward(indices, single_N, *others, **named)
