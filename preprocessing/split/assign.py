"""Assigns rows to splits by position, file, hash, draw or time: pure functions."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.features.hashing import FNV_OFFSET, FNV_PRIME, hash_values, one_array
from ctrdist.features.raw_values import list_texts, plain_array, read_texts
from preprocessing.config.rows import SampleConfig
from preprocessing.config.settings import SplitConfig


def bounds(config: SplitConfig, rows: int) -> tuple[int, int]:
    """First row of valid and of test among all rows, in a split by position."""
    return round(rows * config.fractions[0]), round(
        rows * (config.fractions[0] + config.fractions[1])
    )


def by_edges(values: np.ndarray, edges: Sequence[int | float]) -> np.ndarray:
    """(n,) int8: the splits of rows with these values, by the first value of valid and of test."""
    return np.searchsorted(np.asarray(edges), values, side="right").astype(np.int8)


def row_hash_key(seed: int) -> str:
    """The key of the hashes of a row's values, 16 characters."""
    return hashlib.sha256(f"split {seed}".encode()).hexdigest()[:16]


def row_hash(table: pa.Table, seed: int) -> np.ndarray:
    """(rows,) uint64: the SipHashes of a key's values, combined as FNV-1a combines bytes."""
    key = row_hash_key(seed)
    state = np.full(table.num_rows, FNV_OFFSET, np.uint64)
    for column in table.columns:
        array = plain_array(one_array(column))
        if pa.types.is_list(array.type):
            texts = pc.binary_join(list_texts(array)[0], pa.scalar("\0")).fill_null("\0")
        else:
            texts = read_texts(array)[0]
        state = (state ^ hash_values(texts, key)) * FNV_PRIME
    return state


def by_row_hash(row_hash: np.ndarray, config: SplitConfig) -> np.ndarray:
    """(rows,) int8: the splits of rows with these hashes, (rows,) uint64."""
    # The low bits of a product depend on few bits: fold, multiply, and take the high ones.
    state = (row_hash ^ row_hash >> np.uint64(32)) * np.uint64(0x9E3779B97F4A7C15)
    uniform = (state >> np.uint64(11)).astype(np.float64) / 2.0**53
    return by_edges(uniform, np.cumsum(config.fractions)[:2].tolist())


def by_draw(positions: np.ndarray, total: int, config: SplitConfig, stream: int) -> np.ndarray:
    """(n,) int8: a random draw that gives each split its exact share of `total` rows.

    A cipher with the seed permutes the positions, which are then split as by position: so no list
    of all rows is needed. `positions`, (n,) int64, are those of the rows among all `total`, and
    `stream` selects the permutation.
    """
    return by_edges(_permuted(positions, total, config.seed, stream), bounds(config, total))


def is_drawn(index: np.ndarray, sample: SampleConfig) -> np.ndarray:
    """(n,) bool: which rows with label 0 are kept, by their (n,) int64 indices in the log."""
    key = hashlib.sha256(f"sample {sample.seed}".encode()).digest()
    hashes = splitmix64(index.astype(np.uint64) + np.frombuffer(key[:8], "<u8"))
    kept: np.ndarray = (hashes >> np.uint64(11)).astype(np.float64) / 2.0**53 < sample.negatives
    return kept


def _permuted(positions: np.ndarray, total: int, seed: int, stream: int) -> np.ndarray:
    """Maps positions by a permutation of 0 … total − 1.

    A Feistel network permutes the numbers below a power of 4. It is applied until the result is
    below `total`: at most four times on average.
    """
    bits = np.uint64(max(1, ((total - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << bits) - np.uint64(1)
    digest = hashlib.sha256(f"stratified {seed} {stream}".encode()).digest()
    keys = np.frombuffer(digest, "<u8")
    value = positions.astype(np.uint64)
    walking = np.arange(len(value))
    while len(walking):
        left, right = value[walking] >> bits, value[walking] & mask
        for key in keys:
            left, right = right, left ^ (splitmix64(right ^ key) & mask)
        value[walking] = left << bits | right
        walking = walking[value[walking] >= total]
    return value.astype(np.int64)


def splitmix64(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: a hash of (n,) uint64 values."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
