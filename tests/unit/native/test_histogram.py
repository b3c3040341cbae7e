"""Counts by group, in C and in NumPy, against counting one by one."""

import numpy as np
import pytest

from ctrdist.native.histogram import count_ids, count_numbers


@pytest.mark.parametrize(("cells", "spread_from"), [(5, 0), (5, 2), (50, 0)])
def test_ids_beyond_the_table_share_cells(c_or_python, rng, cells, spread_from):
    ids = rng.integers(0, 40, 500).astype(np.int32)
    group = rng.integers(0, 3, 500).astype(np.uint8)
    table = np.ones((cells, 3), np.int64)
    expected = table.copy()
    for one, g in zip(ids.tolist(), group, strict=True):
        if spread_from and one >= spread_from:
            one = spread_from + (one - spread_from) % (cells - spread_from)
        expected[min(one, cells - 1), g] += 1
    count_ids(ids, group, table, cells, spread_from=spread_from)
    np.testing.assert_array_equal(table, expected)


def test_no_number_at_all(c_or_python):
    counted = count_numbers(np.array([np.nan, np.nan]), None, 2, 6)
    assert counted.counts.shape == (0, 2) and counted.missing.tolist() == [2, 0]
    assert (counted.sum, counted.least, counted.greatest) == (0.0, np.inf, -np.inf)
