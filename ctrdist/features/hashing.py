"""Hashes that decide ids: the same for equal values in every run and on every machine."""

# n values

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ctrdist.native.strings import Strings
from ctrdist.schema import FIRST_VALUE_ID

HASH_KEY = "ctrdist users 64"
"""SipHash key of users, hash buckets and crosses."""
FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)


def hash_values(column: pa.ChunkedArray | pa.Array, key: str = HASH_KEY) -> np.ndarray:
    """(n,) uint64: the hash of the text of each value, see :meth:`Strings.siphash`.

    The (n,) values may be of any type that has a text form; null counts as the empty text. The key
    has 16 characters.
    """
    return Strings.from_array(one_array(column).cast(pa.string())).siphash(key)


def bucket_ids(hashes: np.ndarray, num_buckets: int) -> np.ndarray:
    """(n,) int32: the id of each (n,) uint64 hash among `num_buckets` hash buckets."""
    return (hashes % np.uint64(num_buckets)).astype(np.int32) + np.int32(FIRST_VALUE_ID)


def cross_ids(hashes: Sequence[np.ndarray], num_buckets: int) -> np.ndarray:
    """(n,) int32: the id of each combination of values among `num_buckets`.

    `hashes` are, for each column of the cross, (n,) uint64 from :func:`hash_values`.
    """
    state = np.full(len(hashes[0]), FNV_OFFSET, np.uint64)
    for values in hashes:
        state = (state ^ values) * FNV_PRIME
    return bucket_ids(state ^ state >> np.uint64(32), num_buckets)


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column without chunks; copied only where it has several."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
