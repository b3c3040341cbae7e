"""The split plan gives exact shares, and the same split for any cut into shards."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrdist.features.encode import LocalRows
from preprocessing.config.settings import SplitConfig
from preprocessing.runtime.work_dir import from_json, to_json
from preprocessing.split.assign import _permuted, bounds, by_row_hash, row_hash
from preprocessing.split.plan import SHARD_BINS, Assigner, SplitCounts, SplitPlan, TimeHistogram

FRACTIONS = [0.7, 0.1, 0.2]


def divide(
    config: SplitConfig,
    label: np.ndarray,
    seconds: np.ndarray,
    hashes: np.ndarray,
    cuts: list[int],
    block: int = 7,
) -> np.ndarray:
    """The split of each row, for a log that is cut into shards at `cuts` and read in blocks."""
    ranges = [
        np.arange(low, high) for low, high in zip([0, *cuts], [*cuts, len(label)], strict=True)
    ]
    counts = []
    for rows in ranges:
        shard = SplitCounts.empty(config)
        for part in np.array_split(rows, max(1, len(rows) // block)):
            shard.add(LocalRows(label[part], timestamp=seconds[part]))
        counts.append(from_json(SplitCounts, to_json(shard)))
    plan = SplitPlan.of(config, counts, [None] * len(ranges))
    chosen = []
    for index, rows in enumerate(ranges):
        assigner = Assigner(plan, index)
        for part in np.array_split(rows, max(1, len(rows) // block)):
            block_of = LocalRows(label[part], timestamp=seconds[part], row_hash=hashes[part])
            chosen.append(assigner.next(block_of))
    return np.concatenate(chosen)


@given(st.data(), st.sampled_from(["position", "hash", "stratified", "time"]))
@settings(max_examples=60, deadline=None)
def test_shards_and_blocks_do_not_matter(data, by):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    rows = data.draw(st.integers(1, 120))
    label = (rng.random(rows) < 0.3).astype(np.float32)
    seconds = rng.integers(-20, 20, rows)
    table = pa.table({"a": [str(i) for i in range(rows)]})
    config = SplitConfig(by=by, fractions=FRACTIONS)
    hashes = row_hash(table, config.seed)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=5)))
    once = divide(config, label, seconds, hashes, [], block=1000)
    np.testing.assert_array_equal(divide(config, label, seconds, hashes, cuts), once)
    if by == "hash":
        np.testing.assert_array_equal(once, by_row_hash(hashes, config))
    if by == "position":
        edges = bounds(config, rows)
        np.testing.assert_array_equal(once, np.searchsorted(edges, np.arange(rows), "right"))
    if by == "stratified":
        for value in (0, 1):
            mine = once[label == value]
            edges = bounds(config, len(mine))
            expected = np.diff([0, *edges, len(mine)])
            np.testing.assert_array_equal(np.bincount(mine, minlength=3), expected)
    if by == "time":
        order = np.argsort(seconds, kind="stable")
        assert (np.diff(once[order]) >= 0).all()
        assert len({(s, c) for s, c in zip(seconds, once, strict=True)}) == len(set(seconds))


def test_stratified_rows_are_drawn_from_all_over_the_log_and_anew_by_another_seed(rng):
    label = (rng.random(40_000) < 0.1).astype(np.float32)
    nothing = np.zeros(len(label), np.int64)
    chosen = [
        divide(
            SplitConfig(by="stratified", fractions=FRACTIONS, seed=seed),
            *(label, nothing, nothing, [17_000]),
            block=5000,
        )
        for seed in (1, 2)
    ]
    for tenth in np.array_split(chosen[0], 10):
        np.testing.assert_allclose(np.bincount(tenth) / len(tenth), FRACTIONS, atol=0.03)
    agree = (chosen[0] == chosen[1]).mean()
    assert abs(agree - (0.49 + 0.01 + 0.04)) < 0.02  # where the two are independent
    pairs = np.bincount(3 * chosen[0][:-1] + chosen[0][1:], minlength=9) / len(label)
    np.testing.assert_allclose(pairs, np.outer(FRACTIONS, FRACTIONS).ravel(), atol=0.01)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 63, 64, 65, 1000])
def test_the_draw_is_a_permutation(total):
    for stream in (0, 1):
        drawn = _permuted(np.arange(total), total, 5, stream)
        assert sorted(drawn.tolist()) == list(range(total))


def test_given_times_are_the_first_of_valid_and_of_test():
    config = SplitConfig(by="time", times=[100, 200])
    seconds = np.array([250, 99, 100, 199, 200, -5])
    label = np.zeros(6, np.float32)
    assert divide(config, label, seconds, seconds, [2]).tolist() == [2, 0, 1, 1, 2, 0]


def test_shares_by_time_are_exact_where_a_histogram_holds_all_times(rng):
    seconds = np.repeat(rng.permutation(1000) * 3600 + 1_700_000_000, 5)
    config = SplitConfig(by="time", fractions=FRACTIONS)
    chosen = divide(config, np.zeros(5000, np.float32), seconds, seconds, [1000, 1001, 4000])
    assert np.bincount(chosen).tolist() == [3500, 500, 1000]


def test_a_year_of_seconds_is_divided_within_a_thousandth_and_takes_little_room(rng):
    year = 365 * 86_400
    seconds = 1_700_000_000 + (rng.beta(2, 3, 200_000) * year).astype(np.int64)
    seconds[:3] = [0, -(2**62), 2**62]  # clocks that were wrong
    config = SplitConfig(by="time", fractions=FRACTIONS)
    label = np.zeros(len(seconds), np.float32)
    chosen = divide(config, label, seconds, seconds, [50_000, 90_000], block=20_000)
    np.testing.assert_allclose(np.bincount(chosen) / len(chosen), FRACTIONS, atol=1e-3)
    counts = SplitCounts.empty(config)
    counts.add(LocalRows(label, timestamp=seconds))
    assert len(to_json(counts)) < 20 * SHARD_BINS


def test_one_time_trains():
    for fractions in (FRACTIONS, [0.3, 0.3, 0.4], [1, 0, 0]):
        config = SplitConfig(by="time", fractions=fractions)
        seconds = np.full(10, 1_700_000_000)
        assert not divide(config, np.zeros(10, np.float32), seconds, seconds, []).any()


def test_bins_are_no_wider_than_needed_in_any_order_of_adding(rng):
    seconds = rng.integers(0, 2**20, 3000)
    whole = TimeHistogram(limit=64)
    whole.add(seconds)
    pieces = TimeHistogram(limit=64)
    for part in np.array_split(rng.permutation(seconds), 17):
        one = TimeHistogram(limit=64)
        one.add(part)
        pieces.merge(one)
    assert to_json(whole) == to_json(pieces)
    assert whole.shift == 14


def test_a_shard_of_a_file_split_is_of_that_split():
    counts = [SplitCounts(3, 1), SplitCounts(2, 0)]
    plan = SplitPlan.of(SplitConfig(by="file"), counts, ["valid", "train"])
    assert Assigner(plan, 0).next(LocalRows(np.zeros(3, np.float32))).tolist() == [1, 1, 1]
    assert Assigner(plan, 1).next(LocalRows(np.zeros(2, np.float32))).tolist() == [0, 0]
