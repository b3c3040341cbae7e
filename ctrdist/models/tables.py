"""Names and storage of embedding tables: what models, sharding and optimisers agree on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torchrec.modules.embedding_configs import DataType

from ctrdist.config.experiment import OptimConfig, TableOptimConfig
from ctrdist.schema import module_key

STORED = {"float32": DataType.FP32, "float16": DataType.FP16, "bfloat16": DataType.BF16}
_CODEBOOKS = "codebook"
_ALIGNMENT = 4
"""FBGEMM's kernels want widths divisible by four; other tables are padded with columns that no
model reads, so that they stay as they were drawn."""
_WEIGHT = re.compile(r"(?:^|\.)(?:embedding_bags|codebooks\.\d+\.embeddings)\.(.+?)(?:\.weight)?$")


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """A table that is looked up at hashes, where no row stands for padding."""

    name: str
    init_std: float
    """It starts as N(0, std²)."""
    ids_per_row: int
    """Lookups of each row of the batch."""


def table_name(group: str, field: str) -> str:
    """Name of a field's table in an embedding group."""
    return f"{group}/{module_key(field)}"


def codebook_name(index: int) -> str:
    """Name of a codebook."""
    return table_name(_CODEBOOKS, str(index))


def is_codebook(table: str) -> bool:
    """Whether a table's name is that of a codebook; no group of fields is called so."""
    return table.startswith(f"{_CODEBOOKS}/")


def optimizer_of(table: str, config: OptimConfig) -> TableOptimConfig:
    """The settings of a table's optimiser."""
    return (config.codebooks if is_codebook(table) else None) or config.tables


def optimizer_key(table: str, config: OptimConfig) -> str:
    """The setting that names a table's optimiser."""
    own = is_codebook(table) and config.codebooks is not None
    return f"optim.{'codebooks' if own else 'tables'}.name"


def is_dense(table: str, config: OptimConfig) -> bool:
    """Whether a table's optimiser is the dense Adam, which needs a copy on each worker."""
    return optimizer_of(table, config).name == "adam"


def padded_dim(dim: int) -> int:
    """Width of a table of D columns as it is stored."""
    return -(-dim // _ALIGNMENT) * _ALIGNMENT


def table_of(parameter: str) -> str | None:
    """The table whose weight a parameter of that name is; None for weights of the dense part."""
    found = _WEIGHT.search(parameter)
    return found[1] if found else None
