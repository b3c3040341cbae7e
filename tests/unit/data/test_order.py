"""The order of rows, as pure functions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrdist.data.order import RowGroup, permutation, share, step_bounds, windows

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def groups_of(rows: list[int]) -> list[RowGroup]:
    first = np.concatenate([[0], np.cumsum(rows)])
    return [RowGroup(file=0, index=i, first_row=int(first[i]), rows=n) for i, n in enumerate(rows)]


def epoch_order(rows: list[int], window_rows: int, seed: int, epoch: int) -> np.ndarray:
    """Row at each position of an epoch."""
    result = []
    for window in windows(groups_of(rows), window_rows=window_rows, seed=seed, epoch=epoch):
        stored = np.concatenate(
            [np.arange(g.first_row, g.first_row + g.rows) for g in window.groups]
        )
        assert window.first_position == sum(len(part) for part in result)
        result.append(stored[permutation(window, shuffled=window_rows > 0, seed=seed, epoch=epoch)])
    return np.concatenate(result)


@given(rows=sizes, window_rows=st.integers(0, 100), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_every_row_once_in_an_epoch(rows, window_rows, seed, epoch):
    order = epoch_order(rows, window_rows, seed, epoch)
    assert sorted(order) == list(range(sum(rows)))
    if window_rows == 0:
        assert list(order) == sorted(order)


def test_epochs_and_seeds_differ_and_repeat():
    rows = [50] * 10
    first = epoch_order(rows, 100, seed=1, epoch=0)
    assert list(first) == list(epoch_order(rows, 100, seed=1, epoch=0))
    assert list(first) != list(epoch_order(rows, 100, seed=1, epoch=1))
    assert list(first) != list(epoch_order(rows, 100, seed=2, epoch=0))


@given(rows=st.integers(1, 500), batch_size=st.integers(1, 64), data=st.data())
def test_steps_cover_the_epoch_and_go_on_where_one_ended(rows, batch_size, data):
    bounds = step_bounds(rows, batch_size)
    counts = np.diff(bounds)
    assert bounds[0] == 0 and bounds[-1] == rows
    assert counts.min() >= 1 and counts.max() <= batch_size
    assert (counts[:-2] == batch_size).all()  # only the last two may be smaller
    if rows >= batch_size:
        assert counts.min() >= batch_size // 2
    at = data.draw(st.integers(0, len(bounds) - 1))
    assert list(step_bounds(rows, batch_size, start=int(bounds[at]))) == list(bounds[at:])


@given(begin=st.integers(0, 100), rows=st.integers(1, 100), world_size=st.integers(1, 9))
def test_shares_of_a_step_are_disjoint_even_and_complete(begin, rows, world_size):
    parts = [share(begin, begin + rows, rank, world_size) for rank in range(world_size)]
    assert parts[0][0] == begin and parts[-1][1] == begin + rows
    assert all(a[1] == b[0] for a, b in pairwise(parts))
    held = [high - low for low, high in parts]
    assert max(held) - min(held) <= 1


@pytest.mark.parametrize("window_rows", [1, 60, 10_000])
def test_windows_hold_at_least_their_rows(window_rows):
    found = windows(groups_of([25] * 9), window_rows=window_rows, seed=0, epoch=0)
    assert all(window.rows >= min(window_rows, 225) for window in found[:-1])
    assert sum(window.rows for window in found) == 225
