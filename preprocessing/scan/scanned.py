"""What a scan makes of raw rows: numbers as given, and codes instead of texts."""

# n rows of a shard

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from preprocessing.config.settings import ColumnConfig, PreprocessConfig


@dataclass
class Scanned:
    """Columns of n rows of a shard. Codes are places in the shard's dictionaries."""

    label: np.ndarray
    """(n,) float32, 0 or 1."""
    numbers: dict[str, np.ndarray]
    """Numeric column → (n,) float64 as given, not transformed, NaN where missing."""
    codes: dict[str, np.ndarray]
    """Categorical field → (n,) int32, -1 where it has no value; also x_bucket of `buckets:
    log_square`."""
    lists: dict[str, tuple[np.ndarray, np.ndarray]]
    """Multi-valued field → where each row's codes begin and end, (n + 1,) int32 from 0 on, and the
    codes of all rows, int32."""
    timestamp: np.ndarray | None = None
    """(n,) int64 seconds since 1970."""
    user: np.ndarray | None = None
    """(n,) int64 hash of the raw user."""
    row_hash: np.ndarray | None = None
    """(n,) uint64 where split.by is hash, see split.row_hash."""
    crosses: dict[str, np.ndarray] = field(default_factory=dict)
    """Cross → (n,) int32 ids."""


def counted(config: PreprocessConfig) -> tuple[ColumnConfig, ...]:
    """The categorical fields that have a dictionary: all but buckets by quantiles."""
    return tuple(c for c in config.categorical if c.role != "numeric" or c.buckets == "log_square")


def measured(config: PreprocessConfig) -> tuple[ColumnConfig, ...]:
    """The numeric columns whose numbers are needed after the scan."""
    return tuple(
        c
        for c in config.of_role("numeric")
        if config.numeric_of(c) != "bucket" or c.buckets == "quantile"
    )
