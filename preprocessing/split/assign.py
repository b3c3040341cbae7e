"""Which split each row belongs to; a pure function of its place or of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.data.manifest import SPLITS
from ctrdist.features.hashing import FNV_OFFSET, FNV_PRIME, hash_values
from preprocessing.config.settings import SplitConfig


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
    """(rows,) int8 index of the split, by all raw columns of the row, wherever it stands."""
    return by_row_hash(row_hash(table, config.seed), config)


def row_hash_key(seed: int) -> str:
    """The key, 16 characters, under which the values of a row are hashed."""
    return hashlib.sha256(f"split {seed}".encode()).hexdigest()[:16]


def row_hash(table: pa.Table, seed: int) -> np.ndarray:
    """(rows,) uint64: SipHash of each value, mixed over the columns as FNV-1a mixes bytes."""
    key = row_hash_key(seed)
    state = np.full(table.num_rows, FNV_OFFSET, np.uint64)
    for column in table.columns:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            texts = column.cast(pa.list_(pa.string()))
            column = pc.binary_join(texts, pa.scalar("\0")).fill_null("\0")
        state = (state ^ hash_values(column, key)) * FNV_PRIME
    return state


def by_row_hash(row_hash: np.ndarray, config: SplitConfig) -> np.ndarray:
    """(rows,) int8, the index of the split of each (rows,) uint64 hash of a row."""
    # the low bits of a product depend on few bits: fold, mix, and take the high ones
    state = (row_hash ^ row_hash >> np.uint64(32)) * np.uint64(0x9E3779B97F4A7C15)
    uniform = (state >> np.uint64(11)).astype(np.float64) / 2.0**53
    edges = np.cumsum(config.fractions)[:2]
    return np.searchsorted(edges, uniform, side="right").astype(np.int8)


def by_draw(ranks: np.ndarray, total: int, config: SplitConfig, stream: int) -> np.ndarray:
    """(n,) int8: exact shares of `total` rows, drawn without regard to their order.

    The rows' places are permuted by a cipher under the seed, and then cut as by position: no list
    of all rows is needed, and no row need know of another.

    Args:
        ranks: (n,) int64 places of the rows among all `total`, from 0.
        total: how many rows there are.
        config: fractions and seed.
        stream: another number, another permutation.
    """
    return np.searchsorted(
        np.asarray(bounds(config, total)), _permuted(ranks, total, config.seed, stream), "right"
    ).astype(np.int8)


def by_time(seconds: np.ndarray, edges: Sequence[int]) -> np.ndarray:
    """(n,) int8: by the first second of valid and of test."""
    return np.searchsorted(np.asarray(edges, np.int64), seconds, side="right").astype(np.int8)


def _permuted(ranks: np.ndarray, total: int, seed: int, stream: int) -> np.ndarray:
    """A permutation of 0 … total − 1.

    A Feistel network permutes the numbers below the next larger square of a power of 2; it is
    walked until it comes back below `total`, in at most four steps on average.
    """
    bits = np.uint64(max(1, ((total - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << bits) - np.uint64(1)
    digest = hashlib.sha256(f"stratified {seed} {stream}".encode()).digest()
    keys = np.frombuffer(digest, "<u8")
    place = ranks.astype(np.uint64)
    walking = np.arange(len(place))
    while len(walking):
        left, right = place[walking] >> bits, place[walking] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        place[walking] = left << bits | right
        walking = walking[place[walking] >= total]
    return place.astype(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
