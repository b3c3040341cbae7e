"""Counts of numbers in bins: quantiles are within their error, and merges are exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrdist.native.histogram import bins_of, edges_of
from preprocessing.runtime.work_dir import from_json, to_json
from preprocessing.statistics.histogram import NumberCounts, quantiles


def counted(values) -> NumberCounts:
    made = NumberCounts.empty(1, 9)
    made.add(np.asarray(values, np.float64))
    return made


def quantiles_of(counts: NumberCounts, shares) -> np.ndarray:
    return quantiles(counts, counts.counts[:, 0], shares)


def test_bins_mean_and_range_are_those_of_a_straight_count(rng, c_or_python):
    values = np.concatenate(
        [rng.normal(size=3000) * 10.0 ** rng.integers(-9, 9, 3000), [0, -0.0, 1e300, -1e-300]]
    )
    values[::7] = np.nan
    group = rng.integers(0, 6, len(values)).astype(np.uint8)
    counts = NumberCounts.empty(6, 6)
    for part, its in zip(
        np.split(values, [10, 11, 900]), np.split(group, [10, 11, 900]), strict=True
    ):
        counts.add(part, its)
    there = ~np.isnan(values)
    bins, inverse = np.unique(bins_of(values[there], 6), return_inverse=True)
    expected = np.zeros((len(bins), 6), np.int64)
    np.add.at(expected, (inverse, group[there]), 1)
    np.testing.assert_array_equal(counts.bins, bins)
    np.testing.assert_array_equal(counts.counts, expected)
    np.testing.assert_array_equal(counts.missing, np.bincount(group[~there], minlength=6))
    assert (counts.least, counts.greatest) == (np.nanmin(values), np.nanmax(values))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_bin_holds_what_lies_within_its_edges(x):
    values = np.array([x])
    key = bins_of(values, 9)
    edge = edges_of(key, 9)[0]
    if 2.0**-64 <= abs(x) < 2.0**64:
        assert abs(edge) <= abs(x) < abs(edges_of(key + np.sign(key), 9)[0])
        assert abs(x - edge) <= 0.002 * abs(x) and np.sign(edge) == np.sign(x)
    else:
        assert abs(key[0]) in (0, 128 << 9)


def test_integers_up_to_1000_are_exact():
    values = np.arange(-1024.0, 1025)
    np.testing.assert_array_equal(edges_of(bins_of(values, 9), 9), values)


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_quantiles_are_within_half_a_percent(rng, scale):
    values = np.exp(rng.normal(scale=scale, size=20_000)) - 0.5
    shares = np.linspace(0, 1, 101).tolist()
    expected = np.quantile(values, shares, method="inverted_cdf")
    np.testing.assert_allclose(quantiles_of(counted(values), shares), expected, rtol=0.005)


def test_quantiles_of_counters_are_exact():
    for values, shares, expected in (
        ([1, 2, 3], [0, 0.3, 0.5, 1], [1, 1, 2, 3]),
        (range(1, 101), [0.25, 0.5, 0.75], [25, 50, 75]),
    ):
        np.testing.assert_array_equal(quantiles_of(counted(values), shares), expected)
    assert np.isnan(quantiles_of(counted([]), [0.5])).all()


def test_parts_in_any_order_have_the_same_quantiles(rng):
    values = rng.lognormal(3, 2, 5000)
    values[::5] = np.nan
    parts = [counted(part) for part in np.split(values, [1, 700, 3000])]
    whole, forth, back = counted(values), counted([]), counted([])
    for part in parts:
        forth.merge(part)
    for part in parts[::-1]:
        back.merge(part)
    shares = np.linspace(0, 1, 1001).tolist()
    for made in (forth, back):
        np.testing.assert_array_equal(quantiles_of(made, shares), quantiles_of(whole, shares))
        assert (made.least, made.greatest) == (np.nanmin(values), np.nanmax(values))
        assert made.sum == pytest.approx(np.nansum(values), rel=1e-12)


def test_json_keeps_everything(rng):
    for made in (counted(rng.normal(size=300)), counted([])):
        again = from_json(NumberCounts, to_json(made))
        assert to_json(again) == to_json(made)
        assert (again.least, again.greatest) == (made.least, made.greatest)
