"""Columns of strings as two arrays, and their hashes."""

# n strings

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from ctrdist.native.build import NativeLibrary

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
