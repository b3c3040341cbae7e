"""Distinct values of a column: divided into buckets by hash, counted over shards, ordered.

In C where there is a compiler; otherwise in NumPy and Python, much slower and in more memory.
"""

# n entries: a value of a shard with its hash and its count; d distinct values

import ctypes
import weakref
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.native.build import NativeLibrary
from ctrdist.native.strings import Strings

BUCKETS = 256
"""The first 8 bits of a value's hash are the number of its bucket."""
_LIBRARY = NativeLibrary("distinct")


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
    if _LIBRARY.load() is None:
        return _partition_in_numpy(strings, hashes, counts)
    n, lengths = len(strings), strings.lengths
    hashes = np.ascontiguousarray(hashes, np.uint64)
    counts = np.ascontiguousarray(counts, np.int64)
    entries, offsets = np.empty((2, BUCKETS + 1), np.int64)
    _LIBRARY["measure"](hashes, lengths, n, entries, offsets)
    blocks: np.ndarray = np.empty(offsets[-1], np.uint8)
    positions: np.ndarray = np.empty(n, np.int32)
    given = hashes, counts, lengths, strings.content
    _LIBRARY["partition"](*given, n, entries, offsets, blocks, positions)
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


class Distinct:
    """Distinct values with their counts, numbered 0, 1, … in the order of first appearance."""

    counts: np.ndarray
    """(d,) int64, once finished; valid as long as this object."""
    values: Strings
    """The d values, once finished; valid as long as this object."""

    def __init__(self, skip: int) -> None:
        """Needs a C compiler: see :func:`distinct`; `skip` first bits of all hashes are equal."""
        self._table = _LIBRARY["table_new"](skip)
        if not self._table:
            raise MemoryError
        weakref.finalize(self, _LIBRARY["table_free"], self._table)

    def add(self, blocks: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """Adds the counts of entries, and gives (n,) int32, the number of each entry's value.

        Args:
            blocks: of neighbouring buckets, uint8.
            entries: as in :class:`Buckets`, of these blocks.
        """
        entries = np.ascontiguousarray(entries, np.int64)
        out: np.ndarray = np.empty(entries[-1] - entries[0], np.int32)
        size = len(entries) - 1, len(blocks) - 20 * len(out)
        if _LIBRARY["table_add"](self._table, blocks, entries, *size, out):
            raise MemoryError
        return out

    def finish(self) -> None:
        """Makes `counts` and `values`; nothing can be added afterwards."""
        addresses: np.ndarray = np.empty(3, np.int64)
        size = _LIBRARY["table_finish"](self._table, addresses)
        counts, starts, content = addresses.tolist()
        self.counts = _view(counts, size, np.int64)
        ends = _view(starts, size + 1, np.int64)
        self.values = Strings(ends, _view(content, int(ends[-1]), np.uint8))


class PythonDistinct(Distinct):
    """The same without a C compiler."""

    def __init__(self) -> None:
        """No values yet."""
        self._numbers: dict[bytes, int] = {}
        self.counts = np.zeros(0, np.int64)

    def add(self, blocks: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """See :meth:`Distinct.add`."""
        _, counts, strings = read_blocks(blocks, entries)
        numbers = self._numbers
        values = (strings[i] for i in range(len(strings)))
        out = np.fromiter(
            (numbers.setdefault(v, len(numbers)) for v in values), np.int32, len(strings)
        )
        self.counts = np.pad(self.counts, (0, len(numbers) - len(self.counts)))
        np.add.at(self.counts, out, counts)
        return out

    def finish(self) -> None:
        """See :meth:`Distinct.finish`."""
        lengths = [len(v) for v in self._numbers]
        content = np.frombuffer(b"".join(self._numbers), np.uint8)
        self.values = Strings.from_lengths(np.array(lengths, np.int64), content)


def distinct(first: int, last: int) -> Distinct:
    """For values whose hashes lie in the buckets [first, last).

    The number of buckets is a power of two, and `first` a multiple of it.
    """
    if _LIBRARY.load() is None:
        return PythonDistinct()
    return Distinct((BUCKETS // (last - first)).bit_length() - 1)


def _view(at: int, size: int, dtype: type) -> np.ndarray:
    """Memory of a table as an array, which must not outlive the table."""
    if size == 0:
        return np.empty(0, dtype)
    raw = (ctypes.c_char * (size * np.dtype(dtype).itemsize)).from_address(at)
    return np.frombuffer(memoryview(raw).cast("B"), dtype)


def order(chosen: np.ndarray, counts: np.ndarray, values: Strings) -> np.ndarray:
    """(n,) int32: the n `chosen` numbers by falling count, equal counts by the values' bytes."""
    chosen = np.ascontiguousarray(chosen, np.int32)
    if _LIBRARY.load() is None:
        taken = values.array().take(pa.array(chosen)).cast("large_binary")
        table = pa.table({"count": counts[chosen], "value": taken})
        found = pc.sort_indices(table, [("count", "descending"), ("value", "ascending")])
        return chosen[found.to_numpy()]
    out: np.ndarray = np.empty(len(chosen), np.int32)
    counts = np.ascontiguousarray(counts, np.int64)
    arrays = counts, values.starts, values.content, out
    if _LIBRARY["order"](chosen, len(chosen), *arrays):
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
