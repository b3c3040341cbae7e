"""Which split each row belongs to; a pure function of its place or of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ctrdist.data.manifest import SPLITS
from preprocessing.config import SplitConfig
from preprocessing.fields import hashes


def bounds(config: SplitConfig, rows: int) -> tuple[int, int]:
    """First row of valid and of test among all rows, for a split by position."""
    return round(rows * config.fractions[0]), round(
        rows * (config.fractions[0] + config.fractions[1])
    )


def by_position(first: int, rows: int, edges: Sequence[int]) -> np.ndarray:
    """(rows,) index of the split of each of the rows from `first` on."""
    return np.searchsorted(np.asarray(edges), np.arange(first, first + rows), side="right").astype(
        np.int8
    )


def by_name(name: str, rows: int) -> np.ndarray:
    """(rows,) the index of one split."""
    return np.full(rows, SPLITS.index(name), np.int8)


def by_hash(table: pa.Table, config: SplitConfig) -> np.ndarray:
    """(rows,) index of the split, by all raw columns: neither order nor shards matter."""
    return by_row_hash(row_hash(table, config.seed), config)


def row_hash_key(seed: int) -> str:
    """The key, 16 characters, under which the values of a row are hashed."""
    return hashlib.sha256(f"split {seed}".encode()).hexdigest()[:16]


def row_hash(table: pa.Table, seed: int) -> np.ndarray:
    """(rows,) uint64: SipHash of each value, mixed over the columns as FNV-1a mixes bytes."""
    key = row_hash_key(seed)
    state = np.full(table.num_rows, 0xCBF29CE484222325, np.uint64)
    for name in table.column_names:
        state = (state ^ hashes(table.column(name), key)) * np.uint64(0x100000001B3)
    return state


def by_row_hash(row_hash: np.ndarray, config: SplitConfig) -> np.ndarray:
    """(rows,) int8, the index of the split of each (rows,) uint64 hash of a row."""
    # the low bits of a product depend on few bits: fold, mix, and take the high ones
    state = (row_hash ^ row_hash >> np.uint64(32)) * np.uint64(0x9E3779B97F4A7C15)
    uniform = (state >> np.uint64(11)).astype(np.float64) / 2.0**53
    edges = np.cumsum(config.fractions)[:2]
    return np.searchsorted(edges, uniform, side="right").astype(np.int8)
