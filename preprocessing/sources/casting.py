"""Casts of which some values fail: Arrow says at best one value, and not its row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FAILURES = (pa.ArrowInvalid, pa.ArrowNotImplementedError)


def cast_what_fits(column: pa.Array, target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """A (n,) column cast, null where that fails, and (n,) bool: where it fails.

    Only distinct values are tried, by halves: a few thousand bad ones among a million cost little.
    """
    try:
        return column.cast(target), np.zeros(len(column), bool)
    except _FAILURES:
        encoded = column.dictionary_encode()
    bad = np.zeros(len(encoded.dictionary), bool)
    parts = [(0, len(bad))]
    while parts:
        begin, end = parts.pop()
        try:
            encoded.dictionary.slice(begin, end - begin).cast(target)
        except _FAILURES:
            if end - begin == 1:
                bad[begin] = True
            else:
                middle = (begin + end) // 2
                parts += [(begin, middle), (middle, end)]
    good = pc.if_else(pa.array(bad), pa.scalar(None, column.type), encoded.dictionary)
    codes = encoded.indices.fill_null(-1).to_numpy()
    return good.cast(target).take(encoded.indices), (codes >= 0) & bad[codes]
