"""Digest of a set of rows: proves that an epoch saw each exactly once, in any order."""

# N rows

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctrdist.metrics.arrays import Values, as_integers

MODULUS = 2**64
_CHUNK = 1 << 20


def digest(row_N: Values) -> int:
    """Sum of splitmix64(row + 1) modulo 2⁶⁴ (Steele et al., OOPSLA 2014, for the mixing function).

    The digests of parts add up, modulo 2⁶⁴, to the digest of the whole. A row that is missing or
    occurs twice changes it.

    Args:
        row_N: (N,) int64 indices of rows, in any order.

    Returns:
        A number in [0, 2⁶⁴).
    """
    rows = as_integers(row_N)
    total = 0
    for start in range(0, len(rows), _CHUNK):
        total += _sum(rows[start : start + _CHUNK].astype(np.uint64))
    return total % MODULUS


def digest_of_range(rows: int) -> int:
    """Returns the digest of the rows 0 … rows-1, in bounded memory."""
    total = 0
    for start in range(0, rows, _CHUNK):
        total += _sum(np.arange(start, min(start + _CHUNK, rows), dtype=np.uint64))
    return total % MODULUS


def _sum(rows: NDArray[np.uint64]) -> int:
    z = (rows + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # wraps around on purpose
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((z ^ (z >> np.uint64(31))).sum(dtype=np.uint64))
