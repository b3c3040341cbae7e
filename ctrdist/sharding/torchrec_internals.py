"""Everything private of TorchRec and torch that is used here, and the only monkey patch of them.

TorchRec has no public way to reach the tables that a worker holds, to save and plan their parts, or
to look them up with other code than FBGEMM's. Checked with torchrec 1.8.0 (torch 2.13) and 1.6.1
(torch 2.11); tests/unit/sharding/test_torchrec_internals.py fails where a version differs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed._shard.sharding_spec import EnumerableShardingSpec
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import EmbeddingBagConfig

__all__ = [
    "EnumerableShardingSpec",
    "ShardMetadata",
    "ShardedTensor",
    "TableLookup",
    "bag_configs",
    "table_groups",
    "tables_of_group",
    "wrapped_module",
]


def table_groups(model: nn.Module) -> Iterator[nn.Module]:
    """All modules in the lookups of sharded collections, pooled or not.

    TorchRec keeps these in a plain list, which modules() does not enter.
    """
    for collection in model.modules():
        if isinstance(collection, (ShardedEmbeddingBagCollection, ShardedEmbeddingCollection)):
            for lookup in collection._lookups:
                yield from lookup.modules()


def tables_of_group(group: nn.Module) -> list[Any]:
    """The configs of a group's tables, each with the part of it that this worker holds."""
    return group._config.embedding_tables  # type: ignore[union-attr, return-value]


def bag_configs(collection: ShardedEmbeddingBagCollection) -> list[EmbeddingBagConfig]:
    """The configs of all tables of a collection, on whichever worker."""
    return collection._embedding_bag_configs


def wrapped_module(sharded: DistributedModelParallel) -> nn.Module:
    """The module in DistributedModelParallel: the model, or DistributedDataParallel around it."""
    return sharded._dmp_wrapped_module


class TableLookup(ABC):
    """Looks up tables in place of a module of TorchRec or FBGEMM, and updates them in backward.

    The tables stay in FBGEMM's memory, so that checkpoints, plans and learning rates see no
    difference.
    """

    def __init__(self, module: nn.Module) -> None:
        """Args: module: whose forward method it replaces."""
        self.module = module

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Takes and gives what the module's forward method does."""

    def install(self) -> None:
        """From now on the module calls this object, as an attribute precedes the class's method.

        TorchRec builds these modules itself, so no subclass can take their place.
        """
        self.module.forward = self
