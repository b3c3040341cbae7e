"""Columns of 4-byte values brought into another order, without the GIL."""

# n columns, W rows

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctrdist.native.build import NativeLibrary

_LIBRARY = NativeLibrary("columns")


def permute(columns: Sequence[np.ndarray], order_W: np.ndarray, dtype: Any) -> np.ndarray:
    """(n, W): the columns in another order, in which row order_W[i] becomes row i.

    Args:
        columns: (W,) each, anywhere in memory.
        order_W: int64.
        dtype: float32 or int32, to which the columns are converted.
    """
    given = [np.ascontiguousarray(column, dtype) for column in columns]
    out: np.ndarray = np.empty((len(given), len(order_W)), dtype)
    if _LIBRARY.load() is None:
        for column, to in zip(given, out, strict=True):
            # "clip" and a given target: 2.5 times as fast as the default
            np.take(column, order_W, out=to, mode="clip")
        return out
    addresses = np.array([column.ctypes.data for column in given], np.int64)
    order32_W = order_W.astype(np.int32)  # half the bytes to read for each column
    _LIBRARY["permute"](addresses, order32_W, len(order_W), len(given), out)
    return out
