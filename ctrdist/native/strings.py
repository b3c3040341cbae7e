"""Columns of strings as two arrays, their hashes, and dictionaries of them.

A dictionary maps values to local ids 0, 1, 2, … in the order of first appearance, and back.
"""

# n strings, or values that are looked up; V values of a dictionary

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ctrdist.native.build import NativeLibrary

_LARGE = 2**31
_LIBRARY = NativeLibrary("strings")


@dataclass
class Strings:
    """n strings, one after the other, encoded in UTF-8."""

    starts: np.ndarray
    """(n + 1,) int64: byte at which each begins, and the end."""
    content: np.ndarray
    """uint8."""

    @classmethod
    def from_array(cls, values: pa.Array, *, nulls_empty: bool = True) -> Strings:
        """The strings of an Arrow array.

        Args:
            values: (n,) string or large_string.
            nulls_empty: makes an empty string of a null; otherwise it can be any.
        """
        if values.null_count and nulls_empty:
            values = values.fill_null("")
        if not len(values):
            return cls(np.zeros(1, np.int64), np.empty(0, np.uint8))
        _, offsets, data = values.buffers()
        kind = np.int64 if pa.types.is_large_string(values.type) else np.int32
        ends = np.frombuffer(offsets, kind)[values.offset : values.offset + len(values) + 1]
        starts = ends.astype(np.int64, copy=False)
        if data is None or not data.size:
            return cls(starts - starts[0], np.empty(0, np.uint8))
        return cls(starts - starts[0], np.frombuffer(data, np.uint8)[starts[0] : starts[-1]])

    @classmethod
    def from_lengths(cls, lengths: np.ndarray, content: np.ndarray) -> Strings:
        """Strings of these lengths in bytes, (n,)."""
        starts: np.ndarray = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        return cls(starts, content)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> bytes:
        return self.content[self.starts[index] : self.starts[index + 1]].tobytes()

    @property
    def lengths(self) -> np.ndarray:
        """(n,) uint32, in bytes."""
        return np.diff(self.starts).astype(np.uint32)

    def array(self) -> pa.Array:
        """(n,) large_string, not copied."""
        buffers = pa.py_buffer(self.starts), pa.py_buffer(self.content)
        return pa.LargeStringArray.from_buffers(len(self), *buffers)

    def part(self, start: int, end: int) -> Strings:
        """Strings [start, end); only their starts are copied."""
        starts = self.starts[start : end + 1]
        return Strings(starts - starts[0], self.content[starts[0] : starts[-1]])

    def take(self, indices: np.ndarray) -> Strings:
        """The strings at (m,) indices, in that order."""
        return Strings.from_array(self.array().take(pa.array(indices)))

    def siphash(self, key: str) -> np.ndarray:
        """(n,) uint64: SipHash-2-4 of each, mixed further as pandas.util.hash_array does it.

        Args:
            key: 16 ASCII characters.
        """
        if _LIBRARY.load() is None:
            values = self.array().to_numpy(zero_copy_only=False).astype(object)
            return pd.util.hash_array(values, hash_key=key, categorize=False)
        out: np.ndarray = np.empty(len(self), np.uint64)
        words = np.frombuffer(key.encode(), np.uint64)
        _LIBRARY["siphash"](self.starts, self.content, len(self), words, out)
        return out


class Dictionary:
    """Strings to local ids, outside of Python's memory, which is freed with the object.

    A value takes 29 to 51 bytes in addition to its own. Only one thread may call it at a time.

    Raises:
        MemoryError: there is no memory for further values, or there are more than 2**31 − 2 of
            them; earlier ones keep their ids.
    """

    handle: int | None
    """Address of the string table, which scan.c adds to; None without a C compiler."""

    def __init__(self) -> None:
        """Needs a C compiler: see :func:`new_dictionary`."""
        self.handle = _LIBRARY["dictionary_new"]()
        if not self.handle:
            raise MemoryError("no memory for a dictionary")
        weakref.finalize(self, _LIBRARY["dictionary_free"], self.handle)

    def add(self, values: pa.Array) -> np.ndarray:
        """Local ids of values; new values get the next ones.

        Args:
            values: (n,) string or large_string.

        Returns:
            (n,) int32, -1 for null.
        """
        null = values.is_null().to_numpy(zero_copy_only=False) if values.null_count else None
        strings = Strings.from_array(values, nulls_empty=False)
        ids: np.ndarray = np.empty(len(values), np.int32)
        self._change("add", strings.content, strings.starts, null, len(values), ids)
        return ids

    def add_integers(self, values: np.ndarray, empty: np.ndarray | None = None) -> np.ndarray:
        """Local ids of (n,) int64 as decimal texts; of the empty text where `empty`, (n,) bool."""
        values = np.ascontiguousarray(values, np.int64)
        if empty is not None:
            empty = np.ascontiguousarray(empty, bool)
        ids: np.ndarray = np.empty(len(values), np.int32)
        self._change("add_integers", values, empty, len(values), ids)
        return ids

    def values(self) -> pa.Array:
        """(V,) the values in the order of their ids: string, or large_string from 2 GiB on."""
        size = _LIBRARY["dictionary_bytes"](self.handle)
        ends: np.ndarray = np.empty(len(self) + 1, np.int64)
        content: np.ndarray = np.empty(size, np.uint8)
        _LIBRARY["dictionary_read"](self.handle, ends, content, None)
        if size >= _LARGE:
            return Strings(ends, content).array()
        buffers = pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(content)
        return pa.StringArray.from_buffers(len(self), *buffers)

    def hashes(self) -> np.ndarray:
        """(V,) uint64: :func:`hash_strings` of the values; kept, not computed."""
        hashes: np.ndarray = np.empty(len(self), np.uint64)
        _LIBRARY["dictionary_read"](self.handle, None, None, hashes)
        return hashes

    def truncate(self, size: int) -> None:
        """Forgets the values with ids from `size` on."""
        self._change("truncate", size)

    def __len__(self) -> int:
        return _LIBRARY["dictionary_count"](self.handle)

    def _change(self, function: str, *arguments: Any) -> None:
        if _LIBRARY[f"dictionary_{function}"](self.handle, *arguments):
            raise MemoryError(f"no memory for further values; there are {len(self):,}")


class PythonDictionary(Dictionary):
    """The same without a C compiler: slower, and several times the memory."""

    handle = None

    def __init__(self) -> None:
        """An empty dictionary."""
        self._ids: dict[str, int] = {}

    def add(self, values: pa.Array) -> np.ndarray:
        """See :meth:`Dictionary.add`."""
        encoded = values.dictionary_encode()
        ids = self._ids
        table = [ids.setdefault(text, len(ids)) for text in encoded.dictionary.to_pylist()]
        return np.array([*table, -1], np.int32)[encoded.indices.fill_null(len(table)).to_numpy()]

    def add_integers(self, values: np.ndarray, empty: np.ndarray | None = None) -> np.ndarray:
        """See :meth:`Dictionary.add_integers`."""
        return self.add(pa.array(values, pa.int64(), mask=empty).cast(pa.string()).fill_null(""))

    def values(self) -> pa.Array:
        """See :meth:`Dictionary.values`."""
        texts = pa.array(list(self._ids), pa.large_string())
        return texts if texts.nbytes >= _LARGE else texts.cast(pa.string())

    def hashes(self) -> np.ndarray:
        """See :meth:`Dictionary.hashes`."""
        return hash_strings(self.values())

    def truncate(self, size: int) -> None:
        """See :meth:`Dictionary.truncate`."""
        for text in list(self._ids)[size:]:
            del self._ids[text]

    def __len__(self) -> int:
        return len(self._ids)


def new_dictionary() -> Dictionary:
    """An empty dictionary, the compiled one where there is a C compiler."""
    return PythonDictionary() if _LIBRARY.load() is None else Dictionary()


def hash_strings(values: pa.Array) -> np.ndarray:
    """(n,) uint64, a hash of each string's bytes alone: the same on any machine, in any run.

    Its bits are even enough to partition by any of them. It has no key: values can be chosen to
    collide.

    Args:
        values: (n,) string or large_string without nulls.
    """
    strings = Strings.from_array(values)
    begins, lengths = strings.starts[:-1], np.diff(strings.starts)
    padded = np.concatenate([strings.content, np.zeros(8, np.uint8)])
    state = lengths.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    done = 0
    rows = np.arange(len(values))
    while len(rows):  # word by word, for the strings that are long enough
        at = begins[rows] + done
        words = padded[at[:, None] + np.arange(8)].astype(np.uint8)
        left = np.minimum(lengths[rows] - done, 8)
        words[np.arange(8) >= left[:, None]] = 0
        state[rows] = _mix(state[rows] ^ words.view("<u8")[:, 0].astype(np.uint64))
        done += 8
        rows = rows[lengths[rows] > done]
    return state


def _mix(x: np.ndarray) -> np.ndarray:
    for _ in range(2):
        x = (x ^ x >> np.uint64(32)) * np.uint64(0xD6E8FEB86659FD93)
    return x ^ x >> np.uint64(32)
