"""Columns of 4-byte values joined into batches or brought into another order, without the GIL."""

# P parts, n columns, B rows of a batch, W rows of a window

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctrdist.native.build import LONG, POINTER, NativeLibrary, address

_JOIN = (None, POINTER, POINTER, POINTER, LONG, LONG, POINTER)
_LIBRARY = NativeLibrary(
    "columns",
    join=_JOIN,
    join_rows=_JOIN,
    permute=(None, POINTER, POINTER, LONG, LONG, POINTER),
)


class Columns:
    """n columns of W values of one 4-byte type, anywhere in memory."""

    def __init__(self, arrays: Sequence[np.ndarray], dtype: Any) -> None:
        """Keeps the arrays alive; copies one only if it is not contiguous.

        Args:
            arrays: (W,) each.
            dtype: float32 or int32.
        """
        self.dtype = dtype
        self.arrays: list[np.ndarray] = [np.ascontiguousarray(array, dtype) for array in arrays]
        self.addresses = np.array([array.ctypes.data for array in self.arrays], np.int64)

    def permuted(self, order_W: np.ndarray) -> Columns:
        """The columns in another order: row order_W[i], int32, becomes row i."""
        out: np.ndarray = np.empty((len(self.arrays), len(order_W)), self.dtype)
        library = _LIBRARY.load()
        if library is None:
            for array, to in zip(self.arrays, out, strict=True):
                # "clip" and a given target: 2.5 times as fast as the default
                np.take(array, order_W, out=to, mode="clip")
        else:
            library.ctrdist_permute(
                address(self.addresses), address(order_W), *out.T.shape, address(out)
            )
        return Columns(list(out), self.dtype)


Slices = Sequence[tuple[Columns, int, int]]
"""Parts of a batch: the columns, the first row of them and the row after the last."""


def join(parts: Slices, *, by_row: bool) -> np.ndarray:
    """The rows of all parts, one part after the other.

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
    library = _LIBRARY.load()
    if library is None:
        target = out.T if by_row else out
        for index in range(number):
            target[index] = np.concatenate([c.arrays[index][a:b] for c, a, b in parts])
        return out
    addresses = np.stack([columns.addresses for columns, _, _ in parts])
    function = library.ctrdist_join_rows if by_row else library.ctrdist_join
    arrays = address(addresses), address(begins), address(lengths)
    function(*arrays, len(parts), number, address(out))
    return out
