"""Columns of 4-byte values joined into batches or brought into another order, off Python's lock."""

# P parts, n columns, B rows of a batch, W rows of a window

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ctrdist.native.build import load_native

_SOURCE = Path(__file__).with_suffix(".c")


class Columns:
    """n columns of W values of one 4-byte type, at any places in memory."""

    def __init__(self, arrays: Sequence[np.ndarray], dtype: Any) -> None:
        """Keeps the arrays alive; copies one only if it is not contiguous.

        Args:
            arrays: (W,) each.
            dtype: float32 or int32.
        """
        self.dtype = dtype
        self.arrays: list[np.ndarray] = [np.ascontiguousarray(array, dtype) for array in arrays]
        self.places = np.array([array.ctypes.data for array in self.arrays], np.int64)

    def permuted(self, order_W: np.ndarray) -> Columns:
        """The columns in another order: row order_W[i], int32, comes to place i."""
        out: np.ndarray = np.empty((len(self.arrays), len(order_W)), self.dtype)
        library = _library()
        if library is None:
            for array, to in zip(self.arrays, out, strict=True):
                # "clip" and a given target: 2.5 times as fast as the default
                np.take(array, order_W, out=to, mode="clip")
        else:
            library.ctrdist_permute(
                self.places.ctypes.data, order_W.ctypes.data, *out.T.shape, out.ctypes.data
            )
        return Columns(list(out), self.dtype)


Slices = Sequence[tuple[Columns, int, int]]
"""Of each part: its columns, the first row wanted and the row after the last."""


def join(parts: Slices, *, by_row: bool) -> np.ndarray:
    """The wanted rows of all parts, one part after the other.

    Args:
        parts: with the same number and type of columns.
        by_row: whether rows or columns are contiguous.

    Returns:
        (B, n) or (n, B).
    """
    first = parts[0][0]
    begins = np.array([begin for _, begin, _ in parts], np.int64)
    lengths = np.array([end - begin for _, begin, end in parts], np.int64)
    size, number = int(lengths.sum()), len(first.arrays)
    out: np.ndarray = np.empty((size, number) if by_row else (number, size), first.dtype)
    library = _library()
    if library is None:
        target = out.T if by_row else out
        for index in range(number):
            target[index] = np.concatenate([c.arrays[index][a:b] for c, a, b in parts])
    else:
        places = np.stack([columns.places for columns, _, _ in parts])
        work = library.ctrdist_join_rows if by_row else library.ctrdist_join
        work(
            places.ctypes.data,
            begins.ctypes.data,
            lengths.ctypes.data,
            len(parts),
            number,
            out.ctypes.data,
        )
    return out


@cache
def _library() -> ctypes.CDLL | None:
    library = load_native(_SOURCE)
    if library is None:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    for function in (library.ctrdist_join, library.ctrdist_join_rows):
        function.argtypes = (pointer, pointer, pointer, number, number, pointer)
        function.restype = None
    library.ctrdist_permute.argtypes = (pointer, pointer, number, number, pointer)
    library.ctrdist_permute.restype = None
    return library
