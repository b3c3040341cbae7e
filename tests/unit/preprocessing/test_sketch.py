"""Sketches of numbers are within their error, exact for counters, and merge exactly."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrdist.native.histogram import bins_of, edges_of
from preprocessing.statistics.histogram import (
    NumberCounts,
    NumberSketch,
    offset_for,
)


def of(values) -> NumberSketch:
    made = NumberSketch()
    made.add(np.asarray(values, np.float64))
    return made


def test_bins_mean_and_range_are_those_of_a_straight_count(rng, c_or_python):
    values = np.concatenate(
        [rng.normal(size=3000) * 10.0 ** rng.integers(-9, 9, 3000), [0, -0.0, 1e300, -1e-300]]
    )
    values[::7] = np.nan
    group = rng.integers(0, 6, len(values)).astype(np.uint8)
    counts = NumberCounts(6, 6)
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
    assert counts.range == (np.nanmin(values), np.nanmax(values))


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
    shares = np.linspace(0, 1, 101)
    expected = np.quantile(values, shares, method="inverted_cdf")
    np.testing.assert_allclose(of(values).quantiles(shares), expected, rtol=0.005)


def test_edges_cut_counters_as_numpy_does(rng):
    values = rng.poisson(3, 10_000).astype(float)
    expected = np.unique([np.sort(values)[-(-i * 10_000 // 100) - 1] for i in range(1, 100)])
    np.testing.assert_array_equal(of(values).edges(100), expected)
    np.testing.assert_array_equal(of(range(1, 101)).edges(100), np.arange(1, 100))
    np.testing.assert_array_equal(of([1, 2, 3]).quantiles([0, 0.3, 0.5, 1]), [1, 1, 2, 3])
    assert len(of([]).edges(10)) == 0 and np.isnan(of([]).quantiles([0.5])).all()


def test_parts_in_any_order_have_the_same_quantiles_and_nearly_the_same_moments(rng):
    values = rng.lognormal(3, 2, 5000)
    values[::5] = np.nan
    parts = [of(part) for part in np.split(values, [1, 700, 3000])]
    whole, forth, back = of(values), NumberSketch(), NumberSketch()
    for part in parts:
        forth.merge(part)
    for part in parts[::-1]:
        back.merge(part)
    for made in (forth, back):
        np.testing.assert_array_equal(made.edges(1000), whole.edges(1000))
        assert (made.least, made.greatest) == (np.nanmin(values), np.nanmax(values))
        assert made.moments.mean == pytest.approx(np.nanmean(values), rel=1e-12)
        assert made.moments.deviation == pytest.approx(np.nanstd(values), rel=1e-12)


def test_a_sketch_survives_json_whole(rng):
    made = of(rng.normal(size=300))
    again = NumberSketch.from_json(json.loads(json.dumps(made.to_json())))
    assert again.to_json() == made.to_json() and again.moments == made.moments
    empty = NumberSketch.from_json(json.loads(json.dumps(NumberSketch().to_json())))
    assert empty.count == 0 and empty.least == math.inf


def test_numbers_far_from_zero_are_told_apart_by_their_offset():
    values = 1.7e9 + np.arange(5000.0)
    counts = NumberCounts(1, 6, offset_for(values[0], values[-1]))
    counts.add(values)
    assert len(counts.bins) > 400 and counts.range == (values[0], values[-1])
    assert offset_for(0, 10) == offset_for(-5, 5) == offset_for(math.inf, -math.inf) == 0
