"""Permuting columns, in C and in NumPy, equals indexing by hand."""

import numpy as np
import pytest

from ctrdist.native.columns import permute


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("columns", [0, 1, 13])
@pytest.mark.parametrize("rows", [0, 1, 15, 1000])
def test_rows_are_permuted(c_or_python, rng, dtype, columns, rows):
    # every other value of an array twice as long: not contiguous
    drawn = rng.integers(-1000, 1000, size=(columns, 2 * rows)).astype(dtype)
    given = [one[::2] for one in drawn]
    order = rng.permutation(rows)
    permuted = permute(given, order, dtype)
    assert permuted.shape == (columns, rows) and permuted.dtype == dtype
    for one, array in zip(permuted, given, strict=True):
        np.testing.assert_array_equal(one, array[order])
