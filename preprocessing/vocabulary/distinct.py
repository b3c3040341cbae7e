"""Distinct values of a column: bucketed by hash, counted together, ordered, hashed.

In C where there is a compiler; in numpy and Python, much slower and in more memory, where there is
none.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.native.build import load_native

BUCKETS = 256
"""The first 8 bits of a value's hash say into which it falls."""
_SOURCE = Path(__file__).with_suffix(".c")
_SIP_KEY = "ctrdist users 64"  # that of fields.hashes: one hash of a value in the whole data set


@dataclass
class Texts:
    """n texts, one after the other."""

    starts: np.ndarray
    """(n + 1,) int64: byte at which each begins, and the end."""
    content: np.ndarray
    """uint8."""

    @classmethod
    def of(cls, values: pa.Array) -> Texts:
        """Of strings; nulls are empty."""
        if not pa.types.is_large_string(values.type):
            values = values.cast(pa.large_string())
        if values.null_count:
            values = values.fill_null("")
        _, offsets, content = values.buffers()
        starts: np.ndarray = np.zeros(1, np.int64)
        if len(values):
            starts = np.frombuffer(offsets, np.int64)[
                values.offset : values.offset + len(values) + 1
            ]
        if content is None or not len(values):
            return cls(starts - starts[0], np.empty(0, np.uint8))
        return cls(starts - starts[0], np.frombuffer(content, np.uint8)[starts[0] : starts[-1]])

    @classmethod
    def joined(cls, lengths: np.ndarray, content: np.ndarray) -> Texts:
        """Of their lengths and bytes."""
        starts: np.ndarray = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        return cls(starts, content)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(n,) uint32, in bytes."""
        return np.diff(self.starts).astype(np.uint32)

    def array(self) -> pa.Array:
        """(n,) large_string, not copied."""
        buffers = [None, pa.py_buffer(self.starts), pa.py_buffer(self.content)]
        return pa.LargeStringArray.from_buffers(len(self), *buffers[1:])

    def take(self, order: np.ndarray) -> Texts:
        """Those at these places, int32."""
        library = _library()
        if library is None:
            return Texts.of(self.array().take(pa.array(order)))
        order = np.ascontiguousarray(order, np.int32)
        lengths = self.starts[1:][order] - self.starts[order]
        taken = Texts.joined(lengths, np.empty(int(lengths.sum()), np.uint8))
        given = (_at(x) for x in (self.starts, self.content, taken.starts, taken.content))
        library.ctrdist_gather(_at(order), len(order), *given)
        return taken

    def part(self, start: int, end: int) -> Texts:
        """Texts [start, end), not copied but for their starts."""
        starts = self.starts[start : end + 1]
        return Texts(starts - starts[0], self.content[starts[0] : starts[-1]])

    def __getitem__(self, index: int) -> bytes:
        return self.content[self.starts[index] : self.starts[index + 1]].tobytes()


@dataclass
class Buckets:
    """The entries of a column in the order of their buckets, see distinct.c for a block's form."""

    blocks: np.ndarray
    """uint8: a block for each bucket."""
    entries: np.ndarray
    """(257,) int64: which entry each block begins with."""
    places: np.ndarray
    """(257,) int64: byte at which each block begins."""
    codes: np.ndarray
    """(n,) int32: place of each entry in the input."""


def partition(texts: Texts, hashes: np.ndarray, counts: np.ndarray) -> Buckets:
    """Brings n values into the order of their buckets.

    Args:
        texts: the values.
        hashes: (n,) uint64.
        counts: (n,) int64.
    """
    n, lengths = len(texts), texts.lengths
    hashes = np.ascontiguousarray(hashes, np.uint64)
    counts = np.ascontiguousarray(counts, np.int64)
    entries, places = np.empty((2, BUCKETS + 1), np.int64)
    library = _library()
    if library is None:
        return _partition_in_numpy(texts, hashes, counts)
    library.ctrdist_measure(_at(hashes), _at(lengths), n, _at(entries), _at(places))
    blocks: np.ndarray = np.empty(places[-1], np.uint8)
    codes: np.ndarray = np.empty(n, np.int32)
    library.ctrdist_partition(
        *(_at(x) for x in (hashes, counts, lengths, texts.content)),
        n,
        *(_at(x) for x in (entries, places, blocks, codes)),
    )
    return Buckets(blocks, entries, places, codes)


def read_blocks(blocks: np.ndarray, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray, Texts]:
    """(hashes, counts, texts) of neighbouring blocks; `entries` as in :class:`Buckets`."""
    hashes, counts, lengths, content, place = [], [], [], [], 0
    for n in np.diff(entries).tolist():
        part = blocks[place:]
        hashes.append(part[: 8 * n].view(np.uint64))
        counts.append(part[8 * n : 16 * n].view(np.int64))
        lengths.append(part[16 * n : 20 * n].view(np.uint32))
        end = 20 * n + int(lengths[-1].sum())
        content.append(part[20 * n : end])
        place += -(-end // 8) * 8
    texts = Texts.joined(np.concatenate(lengths), np.concatenate(content))
    return np.concatenate(hashes), np.concatenate(counts), texts


class Distinct(Protocol):
    """Counts of distinct values, which get the indices 0, 1, … as they first appear."""

    counts: np.ndarray
    """(d,) int64, once finished."""
    texts: Texts
    """The d values, once finished."""

    def add(self, blocks: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """(n,) int32: the index of each entry's value; its count is added.

        Args:
            blocks: of neighbouring buckets, uint8.
            entries: as in :class:`Buckets`, of these blocks.
        """

    def finish(self) -> None:
        """No more is added."""


def distinct(first: int, last: int) -> Distinct:
    """For values whose hashes lie in the buckets [first, last).

    Their number is a power of two, and `first` a multiple of it.
    """
    if _library() is None:
        return _PythonDistinct()
    return _NativeDistinct((BUCKETS // (last - first)).bit_length() - 1)


class _NativeDistinct:
    counts: np.ndarray
    texts: Texts

    def __init__(self, skip: int) -> None:
        self._library = _library()
        assert self._library is not None
        self._table = self._library.ctrdist_table_new(skip)
        if not self._table:
            raise MemoryError

    def __del__(self) -> None:
        if self._library is not None:
            self._library.ctrdist_table_free(getattr(self, "_table", None))

    def add(self, blocks: np.ndarray, entries: np.ndarray) -> np.ndarray:
        assert self._library is not None
        entries = np.ascontiguousarray(entries, np.int64)
        out: np.ndarray = np.empty(entries[-1] - entries[0], np.int32)
        failed = self._library.ctrdist_table_add(
            self._table,
            _at(blocks),
            _at(entries),
            len(entries) - 1,
            len(blocks) - 20 * len(out),
            _at(out),
        )
        if failed:
            raise MemoryError
        return out

    def finish(self) -> None:
        assert self._library is not None
        places: np.ndarray = np.empty(3, np.int64)
        size = self._library.ctrdist_table_finish(self._table, _at(places))
        self.counts = self._view(places[0], size, np.int64)
        starts = self._view(places[1], size + 1, np.int64)
        self.texts = Texts(starts, self._view(places[2], int(starts[-1]), np.uint8))

    def _view(self, place: int, size: int, dtype: type) -> np.ndarray:
        """Memory of the table as an array, which must not outlive it."""
        if size == 0:
            return np.empty(0, dtype)
        raw = (ctypes.c_char * (size * np.dtype(dtype).itemsize)).from_address(int(place))
        return np.frombuffer(memoryview(raw).cast("B"), dtype)


class _PythonDistinct:
    counts: np.ndarray
    texts: Texts

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self._counts: np.ndarray = np.zeros(0, np.int64)

    def add(self, blocks: np.ndarray, entries: np.ndarray) -> np.ndarray:
        _, counts, texts = read_blocks(blocks, entries)
        known = self._known
        values = (texts[i] for i in range(len(texts)))
        out = np.fromiter((known.setdefault(v, len(known)) for v in values), np.int32, len(texts))
        self._counts = np.concatenate(
            [self._counts, np.zeros(len(known) - len(self._counts), np.int64)]
        )
        np.add.at(self._counts, out, counts)
        return out

    def finish(self) -> None:
        values = list(self._known)
        lengths = np.array([len(v) for v in values], np.int64)
        self.counts = self._counts
        self.texts = Texts.joined(lengths, np.frombuffer(b"".join(values), np.uint8))


def order(chosen: np.ndarray, counts: np.ndarray, texts: Texts) -> np.ndarray:
    """(n,) int32: the n `chosen` indices by falling count, equal counts by the values' bytes."""
    library = _library()
    chosen = np.ascontiguousarray(chosen, np.int32)
    if library is None:
        table = pa.table(
            {
                "count": counts[chosen],
                "value": texts.array().take(pa.array(chosen)).cast("large_binary"),
            }
        )
        found = pc.sort_indices(table, [("count", "descending"), ("value", "ascending")])
        return chosen[found.to_numpy()]
    out: np.ndarray = np.empty(len(chosen), np.int32)
    counts = np.ascontiguousarray(counts, np.int64)
    arrays = (_at(x) for x in (counts, texts.starts, texts.content, out))
    if library.ctrdist_order(_at(chosen), len(chosen), *arrays):
        raise MemoryError
    return out


def hashed(texts: Texts, num_buckets: int) -> np.ndarray:
    """(n,) int32: SipHash-2-4 of each text, as fields.hashes has it, modulo `num_buckets`."""
    library = _library()
    if library is None:
        values = texts.array().to_numpy(zero_copy_only=False).astype(object)
        out = pd.util.hash_array(values, hash_key=_SIP_KEY, categorize=False)
    else:
        out = np.empty(len(texts), np.uint64)
        key = np.frombuffer(_SIP_KEY.encode(), np.uint64)
        library.ctrdist_siphash(
            _at(texts.starts), _at(texts.content), len(texts), _at(key), _at(out)
        )
    return (out % np.uint64(num_buckets)).astype(np.int32)


def _partition_in_numpy(texts: Texts, hashes: np.ndarray, counts: np.ndarray) -> Buckets:
    bucket = (hashes >> np.uint64(56)).astype(np.uint8)
    codes = np.argsort(bucket, kind="stable").astype(np.int32)
    entries = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=BUCKETS))])
    hashes, counts, texts = hashes[codes], counts[codes], texts.take(codes)
    places, blocks = [0], []
    for start, end in pairwise(entries.tolist()):
        part = texts.part(start, end)
        block = b"".join(
            x.tobytes() for x in (hashes[start:end], counts[start:end], part.lengths, part.content)
        )
        blocks.append(block + bytes(-len(block) % 8))
        places.append(places[-1] + len(blocks[-1]))
    joined = np.frombuffer(b"".join(blocks), np.uint8)
    return Buckets(joined, entries.astype(np.int64), np.array(places, np.int64), codes)


def _at(array: np.ndarray) -> int:
    assert array.flags.c_contiguous
    return array.ctypes.data


@cache
def _library() -> ctypes.CDLL | None:
    library = load_native(_SOURCE)
    if library is None:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    for name, arguments, result in (
        ("measure", (pointer, pointer, number, pointer, pointer), None),
        ("partition", (*[pointer] * 4, number, *[pointer] * 4), None),
        ("table_new", (number,), pointer),
        ("table_free", (pointer,), None),
        ("table_add", (pointer, pointer, pointer, number, number, pointer), number),
        ("table_finish", (pointer, pointer), number),
        ("order", (pointer, number, *[pointer] * 4), number),
        ("gather", (pointer, number, *[pointer] * 4), None),
        ("siphash", (pointer, pointer, number, pointer, pointer), None),
    ):
        function = getattr(library, f"ctrdist_{name}")
        function.argtypes, function.restype = arguments, result
    return library
