"""Where TorchRec keeps the tables of a sharded model on this worker."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection


def lookups(model: nn.Module) -> Iterator[nn.Module]:
    """All modules in the lookups of sharded collections, pooled or not.

    TorchRec keeps these in a plain list, which modules() does not enter.
    """
    for collection in model.modules():
        if isinstance(collection, (ShardedEmbeddingBagCollection, ShardedEmbeddingCollection)):
            for lookup in collection._lookups:
                yield from lookup.modules()
