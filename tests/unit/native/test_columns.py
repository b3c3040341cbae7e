"""Joining and permuting columns, in C and in NumPy, equals slicing by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ctrdist.native.columns import Columns, join

SIZES = (1, 5, 200)  # rows of the parts; 200 is more than a block of the C code


def arrays_of(rng, dtype, columns: int, rows: int) -> list[np.ndarray]:
    # every other value of an array twice as long: not contiguous
    drawn = rng.integers(-1000, 1000, size=(columns, 2 * rows)).astype(dtype)
    return [one[::2] for one in drawn]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("columns", [0, 1, 13])
def test_parts_are_joined_by_column_and_by_row(c_or_python, rng, dtype, columns):
    given = [arrays_of(rng, dtype, columns, rows) for rows in SIZES]
    slices = [(rows // 3, rows) for rows in SIZES] + [(2, 2)]
    parts = [
        (Columns(arrays, dtype), *cut)
        for arrays, cut in zip([*given, given[-1]], slices, strict=True)
    ]
    expected = [
        np.concatenate([arrays[c][a:b] for arrays, (a, b) in zip(given, slices, strict=False)])
        for c in range(columns)
    ]
    by_column, by_row = join(parts, by_row=False), join(parts, by_row=True)
    rows = sum(b - a for a, b in slices)
    assert by_column.shape == (columns, rows)
    assert by_row.shape == (rows, columns)
    assert by_column.dtype == by_row.dtype == dtype
    for c in range(columns):
        np.testing.assert_array_equal(by_column[c], expected[c])
        np.testing.assert_array_equal(by_row[:, c], expected[c])


@pytest.mark.parametrize("rows", [0, 1, 15, 1000])
def test_rows_are_permuted(c_or_python, rng, rows):
    arrays = arrays_of(rng, np.int32, 4, rows)
    order = rng.permutation(rows).astype(np.int32)
    permuted = Columns(arrays, np.int32).permuted(order)
    for one, array in zip(permuted.arrays, arrays, strict=True):
        np.testing.assert_array_equal(one, array[order])
