"""TorchRec's sharders for our tables: kinds, kernels and number formats between workers."""

from typing import Any

import torch
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.fbgemm_qcomm_codec import (
    CommType,
    QCommsConfig,
    get_qcomm_codecs_registry,
)
from torchrec.distributed.types import ModuleSharder, QuantizedCommCodecs

from ctrdist.config.experiment import ShardingConfig
from ctrdist.config.optimizers import OptimConfig
from ctrdist.errors import ConfigError
from ctrdist.models.wide import WideTables

AUTO = ["table_wise", "row_wise", "column_wise"]
CODEBOOK_KINDS = [*AUTO, "data_parallel"]
"""Kinds that TorchRec has for tables whose rows are not pooled."""
_KINDS = [*AUTO, "table_row_wise", "table_column_wise", "grid_shard", "data_parallel"]
_TYPES = {
    "float32": CommType.FP32,
    "float16": CommType.FP16,
    "bfloat16": CommType.BF16,
    "int8": CommType.INT8,
    "fp8": CommType.FP8,
}
_ON_CPU = ("float32", "float16")


class _Sharder:
    """Offers the planner every kind that works on the device.

    TorchRec's own list has no row-wise kinds for the CPU. gloo supports them, and a test compares
    them with the unsharded model.
    """

    kinds = _KINDS

    def __init__(self, *, dense: bool, **settings: Any) -> None:
        """Args: dense: each worker has a copy, under a dense optimiser; settings: TorchRec's."""
        super().__init__(**settings)
        self._dense = dense

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Kinds to choose from."""
        return ["data_parallel"] if self._dense else self.kinds

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Kernels to choose from."""
        copied = self._dense or sharding_type == "data_parallel"
        return [(EmbeddingComputeKernel.DENSE if copied else EmbeddingComputeKernel.FUSED).value]


class TableSharder(_Sharder, EmbeddingBagCollectionSharder):
    """Shards the fields' tables."""


class WideSharder(TableSharder):
    """Shards the wide part's tables."""

    @property
    def module_type(self) -> type[WideTables]:
        """The type of collection that it shards."""
        return WideTables


class CodebookSharder(_Sharder, EmbeddingCollectionSharder):
    """Shards tables whose rows are not pooled."""

    kinds = CODEBOOK_KINDS


def make_sharders(
    sharding: ShardingConfig, optim: OptimConfig, device: str
) -> list[ModuleSharder[nn.Module]]:
    """The sharders to plan with and to shard with."""
    registry = codecs(sharding, device)
    codebooks = optim.codebooks or optim.tables
    return [
        TableSharder(dense=optim.tables.algorithm.dense, qcomm_codecs_registry=registry),
        WideSharder(dense=False, qcomm_codecs_registry=registry),
        CodebookSharder(dense=codebooks.algorithm.dense, qcomm_codecs_registry=registry),
    ]


def codecs(sharding: ShardingConfig, device: str) -> dict[str, QuantizedCommCodecs] | None:
    """TorchRec's codecs by collective; None where everything is sent as float32.

    Raises:
        ConfigError: a type that this device cannot send. TorchRec would silently send another
            one, or fail in the first step.
    """
    for name in ("forward_comm", "backward_comm"):
        given = getattr(sharding, name)
        if device == "cpu" and given not in _ON_CPU:
            raise ConfigError(
                f"sharding.{name} = {given} needs GPUs: between CPUs rows are sent as "
                f"{' or '.join(_ON_CPU)}."
            )
    precisions = _TYPES[sharding.forward_comm], _TYPES[sharding.backward_comm]
    return get_qcomm_codecs_registry(QCommsConfig(*precisions), device=torch.device(device))
