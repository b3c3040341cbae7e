"""Files of a shard's distinct values, which a scan writes for the vocabularies.

A file has for each column its blocks (see distinct.c) and its local ids, int32, both in the order
of hash buckets, so that a range of buckets is a range of bytes. At its end lies an int64 array
(columns, 257, 2): the entry and the byte of the file at which each bucket begins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ctrdist.native.distinct import BUCKETS, partition, read_blocks
from ctrdist.native.strings import Strings
from ctrdist.storage import Store

_EDGES = (BUCKETS + 1) * 2 * 8


@dataclass
class ColumnValues:
    """The distinct values of one column of a shard, in the order of their local ids."""

    values: pa.Array
    """(n,) string or large_string."""
    hashes: np.ndarray
    """(n,) uint64, uniform, the same for equal values on any machine."""
    counts: np.ndarray
    """(n,) int64: training rows that have the value; 0 where only other splits have it."""


@dataclass
class ValuesIndex:
    """Content of a file of values."""

    name: str
    """Name of the file."""
    columns: list[str]
    entries: list[int]
    """Values of each column."""
    bytes: list[int]
    """Bytes of the values of each column."""
    footer: int
    """Byte of the file at which the array of edges begins."""
    first_id: int | None = None
    """Id of the first value, where the values are part of a parent's vocabulary."""


def write_values(
    store: Store, name: str, columns: Mapping[str, ColumnValues], *, first_id: int | None = None
) -> ValuesIndex:
    """Writes the values of a shard by categorical field."""
    index = ValuesIndex(name, list(columns), [], [], 0, first_id)
    footer: np.ndarray = np.empty((len(columns), BUCKETS + 1, 2), np.int64)
    with store.write(name) as file:
        for edges, column in zip(footer, columns.values(), strict=True):
            texts = Strings.from_array(column.values)
            buckets = partition(texts, column.hashes, column.counts)
            edges[:, 0], edges[:, 1] = buckets.entries, buckets.offsets + index.footer
            local_ids = buckets.positions.tobytes()
            file.write(buckets.blocks.data)
            file.write(local_ids + bytes(-len(local_ids) % 8))
            index.footer += len(buckets.blocks) + -(-len(local_ids) // 8) * 8
            index.entries.append(len(texts))
            index.bytes.append(len(texts.content))
        file.write(footer.tobytes())
    return index


def edges_of(store: Store, index: ValuesIndex, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Column → (257, 2) int64, see the module. Columns that the file lacks are left out."""
    there = [index.columns.index(c) for c in columns if c in index.columns]
    if not there:
        return {}
    low, high = min(there), max(there) + 1
    raw = store.get_range(index.name, index.footer + low * _EDGES, index.footer + high * _EDGES)
    table = np.frombuffer(raw, np.int64).reshape(high - low, BUCKETS + 1, 2)
    return {index.columns[p]: table[p - low] for p in there}


def read_range(
    store: Store, index: ValuesIndex, edges: np.ndarray, first: int, last: int
) -> np.ndarray:
    """The blocks of the buckets [first, last) of a column, uint8."""
    raw = store.get_range(index.name, int(edges[first, 1]), int(edges[last, 1]))
    return np.frombuffer(raw, np.uint8)


def read_local_ids(store: Store, index: ValuesIndex, edges: np.ndarray) -> np.ndarray:
    """(n,) int32: the local ids of a column in the order of its entries."""
    start = int(edges[BUCKETS, 1])
    raw = store.get_range(index.name, start, start + 4 * int(edges[BUCKETS, 0]))
    return np.frombuffer(raw, np.int32)


def read_values(store: Store, index: ValuesIndex) -> dict[str, ColumnValues]:
    """The values that :func:`write_values` was given, with empty counts."""
    found: dict[str, ColumnValues] = {}
    for column, edges in edges_of(store, index, index.columns).items():
        local_ids = read_local_ids(store, index, edges)
        hashes, _, texts = read_blocks(read_range(store, index, edges, 0, BUCKETS), edges[:, 0])
        order = np.argsort(local_ids)
        found[column] = ColumnValues(
            texts.take(order).array(), hashes[order], np.zeros(0, np.int64)
        )
    return found
