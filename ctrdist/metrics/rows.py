"""Digest of a set of rows: proves that an epoch saw each exactly once, in any order."""

# N rows

import numpy as np
from numpy.typing import NDArray

MODULUS = 2**64
_CHUNK = 1 << 20


def digest(row_N: NDArray[np.int64]) -> int:
    """Sum of splitmix64(row + 1) modulo 2⁶⁴ (Steele et al., OOPSLA 2014, for the mixing function).

    The (N,) indices of rows may be in any order. The digests of parts add up, modulo 2⁶⁴, to the
    digest of the whole. A row that is missing or occurs twice changes it.
    """
    z = (np.asarray(row_N).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # wraps around on purpose
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((z ^ (z >> np.uint64(31))).sum(dtype=np.uint64))


def digest_of_range(rows: int) -> int:
    """Returns the digest of the rows 0 … rows-1, in bounded memory."""
    starts = range(0, rows, _CHUNK)
    return sum(digest(np.arange(a, min(a + _CHUNK, rows))) for a in starts) % MODULUS
