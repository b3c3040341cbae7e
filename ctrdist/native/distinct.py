"""Distinct values of a column: divided into buckets by hash, counted over shards, ordered.

In C where there is a compiler; otherwise in NumPy and Python, much slower and in more memory.
"""

# n entries: a value of a shard with its hash and its count; d distinct values

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.native.build import LONG, POINTER, NativeLibrary, address
from ctrdist.native.strings import Strings

BUCKETS = 256
"""The first 8 bits of a value's hash are the number of its bucket."""
_LIBRARY = NativeLibrary(
    "distinct",
    measure=(None, POINTER, POINTER, LONG, POINTER, POINTER),
    partition=(None, *[POINTER] * 4, LONG, *[POINTER] * 4),
    table_new=(POINTER, LONG),
    table_free=(None, POINTER),
    table_add=(LONG, POINTER, POINTER, POINTER, LONG, LONG, POINTER),
    table_finish=(LONG, POINTER, POINTER),
    order=(LONG, POINTER, LONG, *[POINTER] * 4),
)


@dataclass
class Buckets:
    """The entries of a column in the order of their buckets; distinct.c describes a block."""

    blocks: np.ndarray
    """uint8: one block for each bucket."""
    entries: np.ndarray
    """(257,) int64: number of the first entry of each block, and n."""
    offsets: np.ndarray
    """(257,) int64: first byte of each block, and the end."""
    positions: np.ndarray
    """(n,) int32: position of each entry in the input."""


def partition(strings: Strings, hashes: np.ndarray, counts: np.ndarray) -> Buckets:
    """Brings n values into the order of their buckets.

    Args:
        strings: the values.
        hashes: (n,) uint64.
        counts: (n,) int64.
    """
    library = _LIBRARY.load()
    if library is None:
        return _partition_in_numpy(strings, hashes, counts)
    n, lengths = len(strings), strings.lengths
    hashes = np.ascontiguousarray(hashes, np.uint64)
    counts = np.ascontiguousarray(counts, np.int64)
    entries, offsets = np.empty((2, BUCKETS + 1), np.int64)
    library.ctrdist_measure(
        address(hashes), address(lengths), n, address(entries), address(offsets)
    )
    blocks: np.ndarray = np.empty(offsets[-1], np.uint8)
    positions: np.ndarray = np.empty(n, np.int32)
    given, made = (hashes, counts, lengths, strings.content), (entries, offsets, blocks, positions)
    library.ctrdist_partition(*map(address, given), n, *map(address, made))
    return Buckets(blocks, entries, offsets, positions)


def read_blocks(blocks: np.ndarray, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray, Strings]:
    """(hashes, counts, strings) of neighbouring blocks; `entries` as in :class:`Buckets`."""
    hashes, counts, lengths, content, offset = [], [], [], [], 0
    for n in np.diff(entries).tolist():
        part = blocks[offset:]
        hashes.append(part[: 8 * n].view(np.uint64))
        counts.append(part[8 * n : 16 * n].view(np.int64))
        lengths.append(part[16 * n : 20 * n].view(np.uint32))
        end = 20 * n + int(lengths[-1].sum())
        content.append(part[20 * n : end])
        offset += -(-end // 8) * 8
    strings = Strings.from_lengths(np.concatenate(lengths), np.concatenate(content))
    return np.concatenate(hashes), np.concatenate(counts), strings


class Distinct(Protocol):
    """Distinct values with their counts, numbered 0, 1, … in the order of first appearance."""

    counts: np.ndarray
    """(d,) int64, once finished."""
    values: Strings
    """The d values, once finished."""

    def add(self, blocks: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """Adds the counts of entries, and gives (n,) int32, the number of each entry's value.

        Args:
            blocks: of neighbouring buckets, uint8.
            entries: as in :class:`Buckets`, of these blocks.
        """

    def finish(self) -> None:
        """Makes `counts` and `values`; nothing can be added afterwards."""


def distinct(first: int, last: int) -> Distinct:
    """For values whose hashes lie in the buckets [first, last).

    The number of buckets is a power of two, and `first` a multiple of it.
    """
    if _LIBRARY.load() is None:
        return _PythonDistinct()
    return _NativeDistinct((BUCKETS // (last - first)).bit_length() - 1)


class _NativeDistinct:
    counts: np.ndarray
    values: Strings

    def __init__(self, skip: int) -> None:
        library = _LIBRARY.load()
        assert library is not None
        self._library = library
        self._table = library.ctrdist_table_new(skip)
        if not self._table:
            raise MemoryError

    def __del__(self) -> None:
        self._library.ctrdist_table_free(self._table)

    def add(self, blocks: np.ndarray, entries: np.ndarray) -> np.ndarray:
        entries = np.ascontiguousarray(entries, np.int64)
        out: np.ndarray = np.empty(entries[-1] - entries[0], np.int32)
        most_bytes = len(blocks) - 20 * len(out)
        arrays = address(blocks), address(entries)
        if self._library.ctrdist_table_add(
            self._table, *arrays, len(entries) - 1, most_bytes, address(out)
        ):
            raise MemoryError
        return out

    def finish(self) -> None:
        addresses: np.ndarray = np.empty(3, np.int64)
        size = self._library.ctrdist_table_finish(self._table, address(addresses))
        counts, starts, content = addresses.tolist()
        self.counts = _view(counts, size, np.int64)
        ends = _view(starts, size + 1, np.int64)
        self.values = Strings(ends, _view(content, int(ends[-1]), np.uint8))


def _view(at: int, size: int, dtype: type) -> np.ndarray:
    """Memory of a table as an array, which must not outlive the table."""
    if size == 0:
        return np.empty(0, dtype)
    raw = (ctypes.c_char * (size * np.dtype(dtype).itemsize)).from_address(at)
    return np.frombuffer(memoryview(raw).cast("B"), dtype)


class _PythonDistinct:
    counts: np.ndarray
    values: Strings

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._counts: np.ndarray = np.zeros(0, np.int64)

    def add(self, blocks: np.ndarray, entries: np.ndarray) -> np.ndarray:
        _, counts, strings = read_blocks(blocks, entries)
        numbers = self._numbers
        values = (strings[i] for i in range(len(strings)))
        out = np.fromiter(
            (numbers.setdefault(v, len(numbers)) for v in values), np.int32, len(strings)
        )
        new: np.ndarray = np.zeros(len(numbers) - len(self._counts), np.int64)
        self._counts = np.concatenate([self._counts, new])
        np.add.at(self._counts, out, counts)
        return out

    def finish(self) -> None:
        values = list(self._numbers)
        lengths = np.array([len(v) for v in values], np.int64)
        self.counts = self._counts
        self.values = Strings.from_lengths(lengths, np.frombuffer(b"".join(values), np.uint8))


def order(chosen: np.ndarray, counts: np.ndarray, values: Strings) -> np.ndarray:
    """(n,) int32: the n `chosen` numbers by falling count, equal counts by the values' bytes."""
    library = _LIBRARY.load()
    chosen = np.ascontiguousarray(chosen, np.int32)
    if library is None:
        taken = values.array().take(pa.array(chosen)).cast("large_binary")
        table = pa.table({"count": counts[chosen], "value": taken})
        found = pc.sort_indices(table, [("count", "descending"), ("value", "ascending")])
        return chosen[found.to_numpy()]
    out: np.ndarray = np.empty(len(chosen), np.int32)
    counts = np.ascontiguousarray(counts, np.int64)
    arrays = counts, values.starts, values.content, out
    if library.ctrdist_order(address(chosen), len(chosen), *map(address, arrays)):
        raise MemoryError
    return out


def _partition_in_numpy(strings: Strings, hashes: np.ndarray, counts: np.ndarray) -> Buckets:
    bucket = (hashes >> np.uint64(56)).astype(np.uint8)
    positions = np.argsort(bucket, kind="stable").astype(np.int32)
    entries = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=BUCKETS))])
    hashes, counts, strings = hashes[positions], counts[positions], strings.take(positions)
    offsets, blocks = [0], []
    for start, end in pairwise(entries.tolist()):
        part = strings.part(start, end)
        block = b"".join(
            x.tobytes() for x in (hashes[start:end], counts[start:end], part.lengths, part.content)
        )
        blocks.append(block + bytes(-len(block) % 8))
        offsets.append(offsets[-1] + len(blocks[-1]))
    joined = np.frombuffer(b"".join(blocks), np.uint8)
    return Buckets(joined, entries.astype(np.int64), np.array(offsets, np.int64), positions)
