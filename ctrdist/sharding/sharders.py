"""TorchRec's sharders for our tables: the kinds and kernels that the planner may choose."""

from __future__ import annotations

from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.types import ModuleSharder, QuantizedCommCodecs

from ctrdist.config.experiment import ShardingConfig
from ctrdist.config.optimizers import OptimConfig
from ctrdist.sharding.communication import codecs

AUTO = ["table_wise", "row_wise", "column_wise"]
CODEBOOK_KINDS = [*AUTO, "data_parallel"]
"""Kinds that TorchRec has for tables whose rows are not pooled."""


class TableSharder(EmbeddingBagCollectionSharder):
    """Offers the planner every kind that works on the device.

    TorchRec's own list has no row-wise kinds for the CPU. gloo supports them, and a test compares
    them with the unsharded model.
    """

    def __init__(self, *, dense: bool, registry: dict[str, QuantizedCommCodecs] | None) -> None:
        """Args: dense: each worker has a copy, under a dense optimiser; registry: codecs."""
        super().__init__(qcomm_codecs_registry=registry)
        self._dense = dense

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Kinds to choose from."""
        if self._dense:
            return ["data_parallel"]
        return [*AUTO, "table_row_wise", "table_column_wise", "grid_shard", "data_parallel"]

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Kernels to choose from."""
        return [_kernel(sharding_type, dense=self._dense)]


class CodebookSharder(EmbeddingCollectionSharder):
    """The same for tables whose rows are not pooled."""

    def __init__(self, *, dense: bool, registry: dict[str, QuantizedCommCodecs] | None) -> None:
        """Args: dense: each worker has a copy, under a dense optimiser; registry: codecs."""
        super().__init__(qcomm_codecs_registry=registry)
        self._dense = dense

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Kinds to choose from."""
        return ["data_parallel"] if self._dense else CODEBOOK_KINDS

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Kernels to choose from."""
        return [_kernel(sharding_type, dense=self._dense)]


def make_sharders(
    sharding: ShardingConfig, optim: OptimConfig, device: str
) -> list[ModuleSharder[nn.Module]]:
    """The sharders to plan with and to shard with."""
    registry = codecs(sharding, device)
    codebooks = optim.codebooks or optim.tables
    return [
        TableSharder(dense=optim.tables.algorithm.dense, registry=registry),
        CodebookSharder(dense=codebooks.algorithm.dense, registry=registry),
    ]  # type: ignore[list-item]


def _kernel(sharding_type: str, *, dense: bool) -> str:
    copied = dense or sharding_type == "data_parallel"
    return (EmbeddingComputeKernel.DENSE if copied else EmbeddingComputeKernel.FUSED).value
