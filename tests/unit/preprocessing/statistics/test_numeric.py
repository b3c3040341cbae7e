"""Fitted parameters are those of all training rows, however the rows are cut into blocks."""

import numpy as np
import pytest

from ctrdist.features.transforms import quantile_ids, transformed
from preprocessing.config.settings import ColumnConfig, PreprocessConfig
from preprocessing.runtime.work_dir import from_json, to_json
from preprocessing.statistics.numeric import Moments, NumberStatistics

CONFIG = PreprocessConfig(
    columns=[
        ColumnConfig(name="label", role="label"),
        ColumnConfig(name="log", role="numeric"),
        ColumnConfig(name="plain", role="numeric", transform="standardise"),
        ColumnConfig(name="raw", role="numeric", transform="raw"),
        ColumnConfig(name="unit", role="numeric", transform="min_max"),
        ColumnConfig(
            name="part", role="numeric", numeric_as="bucket", buckets="quantile", num_quantiles=4
        ),
    ]
)
NAMES = [c.name for c in CONFIG.of_role("numeric")]


def of(name: str) -> ColumnConfig:
    return next(c for c in CONFIG.columns if c.name == name)


@pytest.mark.parametrize("sizes", [[100], [1, 99], [30, 30, 40], [10] * 10])
def test_moments_of_parts_are_those_of_the_whole(rng, sizes):
    values = 1e4 + rng.normal(size=100)
    total = Moments()
    for part in np.split(values, np.cumsum(sizes)[:-1]):
        total = total + Moments.of(part)
    assert total.count == 100
    np.testing.assert_allclose(
        [total.mean, total.deviation], [values.mean(), values.std()], rtol=1e-9
    )


def test_no_values_or_equal_ones_divide_by_one():
    assert Moments().deviation == 1
    assert Moments.of(np.full(5, 3.0)).deviation == 1
    assert (Moments() + Moments.of(np.ones(2))).count == 2


def fitted(values: np.ndarray, train: np.ndarray, cuts: list[int]) -> dict:
    """Parameters fitted to as many shards as there are parts, each added in two blocks."""
    total = NumberStatistics.empty(CONFIG)
    for part, chosen in zip(np.split(values, cuts), np.split(train, cuts), strict=True):
        shard = NumberStatistics.empty(CONFIG)
        half = len(part) // 2
        shard.add(dict.fromkeys(NAMES, part[:half]), chosen[:half], CONFIG)
        shard.add(dict.fromkeys(NAMES, part[half:]), chosen[half:], CONFIG)
        total.merge(from_json(NumberStatistics, to_json(shard)))
    return total.fit(CONFIG)


@pytest.mark.parametrize("cuts", [[], [10], [1, 400, 401, 900]])
def test_transforms_are_fitted_to_training_rows_alone(rng, cuts):
    values = np.round(np.exp(rng.normal(3, 2, 1000)))
    values[rng.random(1000) < 0.1] = np.nan
    train = rng.random(1000) < 0.7
    found = fitted(values, train, cuts)
    own = values[train & ~np.isnan(values)]
    logs = np.log1p(own)
    expected = {
        "log": (np.log1p(values) - logs.mean()) / logs.std(),
        "plain": (values - own.mean()) / own.std(),
        "raw": values,
        "unit": np.clip((values - own.min()) / (own.max() - own.min()), 0, 1),
    }
    for name, wanted in expected.items():
        got = transformed(values, of(name), found.get(name, {}))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, np.nan_to_num(wanted), rtol=1e-5, atol=1e-5)


def test_the_logarithm_keeps_the_sign_and_a_missing_value_becomes_zero():
    got = transformed(
        np.array([-3.0, 0.0, 5.0, np.nan]), of("log"), {"mean": 1.0, "deviation": 2.0}
    )
    expected = [(-np.log(4) - 1) / 2, -0.5, (np.log(6) - 1) / 2, 0]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_numbers_are_cut_into_parts_of_equal_size(rng):
    values = rng.integers(0, 100, 4000).astype(np.float64)
    values[::10] = np.nan
    found = fitted(values, np.ones(4000, bool), [1234])["part"]
    ids = quantile_ids(values, found)
    assert len(found["edges"]) == 3
    shares = np.bincount(ids, minlength=7)[2:6] / 3600
    np.testing.assert_allclose(shares, 0.25, atol=0.03)
    assert (ids[::10] == 6).all()  # a missing value is a part of its own
    order = np.argsort(values[~np.isnan(values)], kind="stable")
    assert (np.diff(ids[~np.isnan(values)][order]) >= 0).all()


def test_a_column_without_any_value_is_fitted_too():
    found = fitted(np.full(10, np.nan), np.ones(10, bool), [])
    for name in ("log", "plain", "unit"):
        assert (transformed(np.array([np.nan, 2.0]), of(name), found[name])[:1] == 0).all()
    assert quantile_ids(np.array([np.nan, 1.0]), found["part"]).tolist() == [3, 2]
