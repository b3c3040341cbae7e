"""Warnings name what is wrong with made-up rows, and their advice fits the cause."""

import numpy as np
import pyarrow as pa
import pytest

from preprocessing.report.label_sample import FIRST_ROWS, determining
from preprocessing.report.time_warnings import time_warnings
from preprocessing.report.warnings import column_warnings, join_warnings
from preprocessing.sources.side_tables import Matches, SideTable, attach
from preprocessing.statistics.profile import Series

N = 20_000
DAY = 86400


def column(unknown: dict[str, float], distinct: int = 50) -> dict:
    return {
        "auc": None,
        "constant": False,
        "unknown_rate": unknown,
        "distinct": distinct,
        "psi": {},
        "null_rate": 0.0,
        "dominant": 0.0,
    }


@pytest.mark.parametrize(
    ("unknown", "distinct", "split_by", "advice"),
    [
        ({"train": 0.0, "test": 1.0}, 50, "time", "new values"),
        ({"train": 0.0, "test": 0.4}, 50, "hash", "rare values"),
        ({"train": 0.4, "test": 0.5}, 50, "hash", "rarer than `min_count`"),
        ({"train": 1.0, "test": 1.0}, 0, "time", "a value of its own"),
        ({"train": 0.0, "test": 1.0}, 990, "hash", "a value of its own"),
    ],
)
def test_advice_on_unknown_values_fits_their_cause(unknown, distinct, split_by, advice):
    (found,) = column_warnings(column(unknown, distinct), split_by, 1000)
    assert advice in found["text"]


@pytest.fixture
def pairs(rng) -> dict[str, np.ndarray]:
    """Users and items whose pair occurs several times, and a context."""
    return {
        "user": rng.integers(2, 60, N).astype(np.int32),
        "item": rng.integers(2, 60, N).astype(np.int32),
        "hour": rng.integers(2, 26, N).astype(np.int32),
    }


def test_a_pair_that_determines_the_label_is_found(pairs, rng):
    label = (pairs["user"] * 31 + pairs["item"] * 17) % 3 == 0
    assert list(determining(pairs, label)) == [("user", "item")]
    label[rng.integers(0, N, 5)] ^= True  # a few corrected rows
    assert list(determining(pairs, label)) == [("user", "item")]


def test_what_chance_explains_is_not_reported(pairs, rng):
    assert not list(determining(pairs, rng.random(N) < 0.3))
    assert not list(determining(pairs, rng.random(N) < 0.0))
    unique = {"row": np.arange(2, N + 2, dtype=np.int32), "hour": pairs["hour"]}
    assert not list(determining(unique, rng.random(N) < 0.3))
    known = {name: np.ones(N, np.int32) for name in pairs}  # all unknown
    assert not list(determining(known, rng.random(N) < 0.3))


def test_a_column_that_determines_the_label_is_named_alone(pairs, rng):
    label = pairs["user"] % 3 == 0
    assert list(determining(pairs, label)) == [("user",)]


def test_the_whole_sample_decides_where_its_begin_says_nothing(pairs):
    label = (pairs["user"] * 31 + pairs["item"] * 17) % 3 == 0
    begin = {name: ids[:FIRST_ROWS] for name, ids in pairs.items()}
    begin["user"] = np.arange(2, FIRST_ROWS + 2, dtype=np.int32)
    ids = {name: np.concatenate([begin[name], found]) for name, found in pairs.items()}
    assert list(determining(ids, np.concatenate([label[:FIRST_ROWS], label]))) == [("user", "item")]


def series(seconds: np.ndarray, split: int = 0) -> Series:
    made = Series(time=True)
    made.add(seconds, np.full(len(seconds), 2 * split, np.uint8))
    return made


@pytest.mark.parametrize(
    ("begin", "unit", "advice"),
    [
        (1_700_000_000_000, "s", "`unit: ms` would make that 2023"),
        (1_700_000_000_000_000, "ms", "`unit: ns` would make that 2023"),
        (1_700_000, "ms", "`unit: s` would make that 2023"),
        (14_102_100, "s", "Correct the column's `unit`"),
        (14_102_100, None, "Correct the column's `unit`"),
    ],
)
def test_odd_years_are_reported_with_the_unit_that_fits(begin, unit, advice):
    (found,) = time_warnings(series(begin + np.arange(1000)), "time", unit)
    assert found["kind"] == "years" and found["column"] == "time" and advice in found["text"]


def test_ordinary_years_pass_and_a_split_of_one_day_is_named():
    ten_days = series(1_700_006_400 + np.arange(0, 10 * DAY, 600))
    assert not list(time_warnings(ten_days, "time", "s"))
    ten_days.merge(series(1_700_006_400 + np.arange(10 * DAY, 11 * DAY, 600), split=2))
    (found,) = time_warnings(ten_days, "time", "s")
    assert found["kind"] == "one_day" and "test are of one day (2023-11-25)" in found["text"]
    assert not list(time_warnings(Series(time=True), "time", "s"))


def test_rows_without_a_partner_in_a_side_table_are_counted():
    side = SideTable("user", pa.array(["1", "2"]), pa.table({"age": [30, 40]}))
    matches = Matches()
    keys = pa.table({"user": ["01", "02", "2", None]})
    joined = attach(keys, [side], [matches])
    assert joined.column("age").to_pylist() == [None, None, 40, None]
    assert matches == Matches(rows=1, of=4, lacking="01")
    matches.merge(Matches(rows=1, of=2, lacking="9"))
    assert matches == Matches(rows=2, of=6, lacking="01")
    join = {"key": "user", "lacking": "01", "example": "1"}
    (none,) = join_warnings({"users.csv": {**join, "matched": 0.0}})
    assert "None of the rows found user in users.csv" in none["text"] and '"01"' in none["text"]
    (few,) = join_warnings({"users.csv": {**join, "matched": 0.25}})
    assert "Only 25.0 %" in few["text"] and few["weight"] < none["weight"]
    assert not list(join_warnings({"users.csv": {**join, "matched": 0.5}}))
