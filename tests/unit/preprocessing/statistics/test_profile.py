"""A profile counts the rows, however they are cut into parts, and JSON restores it."""

import numpy as np
import pyarrow as pa
import pytest

from ctrdist.features.encode import Encoded, LocalRows
from ctrdist.schema import CategoricalField, Schema
from preprocessing.runtime.work_dir import from_json, to_json
from preprocessing.statistics.profile import HEAD, MOST_STEPS, Profile, Series

SCHEMA = Schema(
    name="made up",
    numeric=("x",),
    categorical=(
        CategoricalField(name="small", vocabulary_size=5),
        CategoricalField(name="large", vocabulary_size=50_000),
        CategoricalField(name="hashed", vocabulary_size=50_000),
        CategoricalField(name="tags", vocabulary_size=9, multi_valued=True),
    ),
)


def rows(rng, n: int) -> dict[str, np.ndarray]:
    return {
        "split": rng.integers(0, 3, n).astype(np.int8),
        "label": rng.integers(0, 2, n).astype(np.float32),
        "x": np.where(rng.random(n) < 0.2, np.nan, rng.lognormal(size=n)),
        "small": rng.integers(1, 5, n).astype(np.int32),
        "large": np.minimum(rng.zipf(1.3, n) + 1, 49_999).astype(np.int32),
        "hashed": rng.integers(1, 50_000, n).astype(np.int32),
        "lengths": rng.integers(0, 4, n),
        "null": rng.random(n) < 0.1,
        "time": 1_700_000_000 + rng.integers(0, 3_000_000, n),
    }


def add(profile: Profile, made: dict[str, np.ndarray], begin: int, end: int) -> None:
    part = {name: values[begin:end] for name, values in made.items()}
    offsets = np.concatenate([[0], np.cumsum(made["lengths"])]).astype(np.int32)
    tags = np.arange(offsets[-1], dtype=np.int32) % 7 + 1
    ids = {name: part[name] for name in ("small", "large", "hashed")}
    profile.add(
        part["split"],
        LocalRows(part["label"], {"x": part["x"]}),
        Encoded(
            pa.table({}),
            {**ids, "tags": (offsets[begin : end + 1], tags)},
            {"small": part["null"]},
        ),
        np.arange(begin, end),
    )


def of(made: dict[str, np.ndarray], cuts: tuple[int, ...]) -> Profile:
    n = len(made["label"])
    whole = Profile.empty(SCHEMA, ["hashed"])
    for begin, end in zip((0, *cuts), (*cuts, n), strict=True):
        part = Profile.empty(SCHEMA, ["hashed"])
        add(part, made, begin, end)
        whole.merge(part)
    return whole


def without_sums(profile: Profile) -> bytes:
    profile.numbers["x"].sum = 0.0
    return to_json(profile)


def test_counts_are_those_of_a_straight_count(rng):
    made = rows(rng, 5000)
    profile = of(made, ())
    group = 2 * made["split"] + made["label"].astype(int)
    for name, cell in (
        ("small", made["small"]),
        ("large", np.minimum(made["large"], HEAD)),
        ("hashed", np.where(made["hashed"] < 2, 1, 2 + (made["hashed"] - 2) % (HEAD - 2))),
    ):
        expected = np.zeros_like(profile.ids[name])
        np.add.at(expected, (cell, group), 1)
        np.testing.assert_array_equal(profile.ids[name], expected)
    tags = np.arange(made["lengths"].sum()) % 7 + 1
    expected = np.zeros((9, 6), np.int64)
    np.add.at(expected, (tags, np.repeat(group, made["lengths"])), 1)
    np.testing.assert_array_equal(profile.ids["tags"], expected)
    assert profile.missing == {
        "small": made["null"].sum(),
        "large": 0,
        "hashed": 0,
        "tags": (made["lengths"] == 0).sum(),
    }
    np.testing.assert_array_equal(profile.groups, np.bincount(group, minlength=6))
    missing = np.isnan(made["x"])
    np.testing.assert_array_equal(
        profile.numbers["x"].missing, np.bincount(group[missing], minlength=6)
    )


@pytest.mark.parametrize("cuts", [(1,), (100, 101, 2500), (2999,)])
def test_parts_that_are_merged_are_the_whole(rng, cuts):
    made = rows(rng, 3000)
    assert without_sums(of(made, cuts)) == without_sums(of(made, ()))
    assert to_json(of(made, cuts)) == to_json(of(made, cuts))


def test_without_a_compiler_the_counts_are_the_same(rng, drop_compiler):
    made = rows(rng, 3000)
    expected = without_sums(of(made, ()))
    drop_compiler()
    assert without_sums(of(made, (500,))) == expected


def test_json_keeps_everything(rng):
    for profile in (of(rows(rng, 1000), ()), Profile.empty(SCHEMA)):
        again = from_json(Profile, to_json(profile))
        assert to_json(again) == to_json(profile) and again.schema == SCHEMA


@pytest.mark.parametrize("time", [True, False])
def test_the_series_is_the_same_in_any_order_and_stays_small(rng, time):
    places = np.sort(rng.integers(0, 40_000_000, 4000)) + (1_700_000_000 if time else 0)
    group = rng.integers(0, 6, 4000).astype(np.uint8)
    parts = []
    for chunk in np.split(np.arange(4000), [1, 50, 60, 3000]):
        parts.append(Series(time=time))
        parts[-1].add(places[chunk], group[chunk])
    made = []
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        series = Series(time=time)
        for index in order:
            series.merge(parts[index])
        made.append(series)
    whole = Series(time=time)
    whole.add(places, group)
    assert to_json(made[0]) == to_json(made[1]) == to_json(whole)
    assert MOST_STEPS / 12 <= len(whole.counts) <= MOST_STEPS
    np.testing.assert_array_equal(whole.counts.sum(axis=0), np.bincount(group, minlength=6))
    steps = np.bincount(places // whole.width - whole.first)
    np.testing.assert_array_equal(whole.counts.sum(axis=1), steps)
