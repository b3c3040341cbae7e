"""Names and storage of embedding tables, shared by models, sharding and optimisers."""

import re
from dataclasses import dataclass

from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType

from ctrdist.config.optimizers import WIDE_TABLES, OptimConfig, TableOptimConfig
from ctrdist.schema import CategoricalField, module_key

STORED = {"float32": DataType.FP32, "float16": DataType.FP16, "bfloat16": DataType.BF16}
CODEBOOKS = "codebook"
"""Group of the codebooks; no embedding group of a model has this name."""
WIDE = "wide"
"""Group of the wide part's tables; no embedding group of a model has this name."""
_ALIGNMENT = 4
"""FBGEMM's kernels need widths divisible by four. Other tables are padded with columns that no
model reads, so these keep their initial values."""
_WEIGHT = re.compile(r"(?:^|\.)(?:embedding_bags|codebooks\.\d+\.embeddings)\.(.+?)(?:\.weight)?$")


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """A table that is looked up at hashes; it has no padding row."""

    name: str
    init_std: float
    """It starts as N(0, std²)."""
    ids_per_row: int
    """Lookups per row of the batch."""


def table_name(group: str, field: str) -> str:
    """Returns the name of a field's table in an embedding group."""
    return f"{group}/{module_key(field)}"


def field_table(
    group: str, field: CategoricalField, dim: int, dtype: str = "float32"
) -> EmbeddingBagConfig:
    """Returns the config of a field's table of D = dim columns in an embedding group."""
    return EmbeddingBagConfig(
        name=table_name(group, field.name),
        embedding_dim=padded_dim(dim),
        num_embeddings=field.vocabulary_size,
        feature_names=[module_key(field.name)],
        pooling=PoolingType.MEAN if field.multi_valued else PoolingType.SUM,
        data_type=STORED[dtype],
    )


def is_codebook(table: str) -> bool:
    """Returns True for the name of a codebook."""
    return table.startswith(f"{CODEBOOKS}/")


def is_wide(table: str) -> bool:
    """Returns True for the name of a table of the wide part."""
    return table.startswith(f"{WIDE}/")


def optimizer_of(table: str, config: OptimConfig) -> TableOptimConfig:
    """Returns the settings of a table's optimiser."""
    if is_wide(table):
        return WIDE_TABLES
    return (config.codebooks if is_codebook(table) else None) or config.tables


def optimizer_key(table: str, config: OptimConfig) -> str:
    """Returns the key of the setting that chooses a table's optimiser."""
    own = is_codebook(table) and config.codebooks is not None
    return f"optim.{'codebooks' if own else 'tables'}.name"


def is_dense(table: str, config: OptimConfig) -> bool:
    """Returns True for a table under the dense Adam, which needs a copy on each worker."""
    return optimizer_of(table, config).algorithm.dense


def padded_dim(dim: int) -> int:
    """Returns the stored width of a table of D columns."""
    return -(-dim // _ALIGNMENT) * _ALIGNMENT


def table_of(parameter: str) -> str | None:
    """Returns the table whose weight a parameter is; None for weights of the dense part."""
    found = _WEIGHT.search(parameter)
    return found[1] if found else None
