"""Means and paired differences against SciPy's two-sample form and by hand."""

import math

import pytest
from scipy import stats

from ctrdist.studies.comparison import paired_difference, spread


def test_spread_is_the_sample_standard_deviation():
    found = spread({1: 2.0, 2: 4.0, 3: 9.0})
    assert found["mean"] == 5.0 and found["seeds"] == 3
    assert found["sd"] == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert math.isnan(spread({1: 2.0})["sd"]) and math.isnan(spread({})["mean"])


def test_differences_are_paired_by_seed():
    a = {1: 0.81, 2: 0.83, 3: 0.82, 9: 0.1}
    b = {3: 0.80, 1: 0.80, 2: 0.81, 7: 0.9}  # another order, and seeds that only one has
    found = paired_difference(a, b)
    assert found["seeds"] == 3
    assert found["mean"] == pytest.approx((0.01 + 0.02 + 0.02) / 3)
    expected = stats.ttest_rel([0.81, 0.83, 0.82], [0.80, 0.81, 0.80])
    assert found["p"] == pytest.approx(float(expected.pvalue))


def test_what_a_single_seed_or_none_cannot_tell_is_nan():
    one = paired_difference({1: 0.5}, {1: 0.4, 2: 0.3})
    assert one["mean"] == pytest.approx(0.1) and one["seeds"] == 1
    assert math.isnan(one["sd"]) and math.isnan(one["p"])
    none = paired_difference({1: 0.5}, {2: 0.4})
    assert none["seeds"] == 0 and math.isnan(none["mean"])


def test_equal_differences_have_no_variance_to_test():
    assert paired_difference({1: 0.5, 2: 0.5}, {1: 0.5, 2: 0.5})["p"] == 1.0
    assert paired_difference({1: 0.75, 2: 0.5}, {1: 0.5, 2: 0.25})["p"] == 0.0
