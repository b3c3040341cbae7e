"""The order of rows, as pure functions."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrdist.data.order import (
    RowGroup,
    permutation,
    share,
    shuffled,
    step_bounds,
    stream_buffers,
    stream_count,
    stream_position,
)

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def groups_of(rows: list[int]) -> list[RowGroup]:
    first = np.concatenate([[0], np.cumsum(rows)])
    return [RowGroup(file=0, index=i, first_row=int(first[i]), rows=n) for i, n in enumerate(rows)]


def epoch_order(
    rows: list[int], streams: int, buffer_rows: int, seed: int = 0, epoch: int = 0
) -> np.ndarray:
    """Row at each position of an epoch, from its definition."""
    groups = shuffled(groups_of(rows), seed=seed, epoch=epoch)
    by_stream = []
    for stream in range(streams):
        parts = [np.empty(0, dtype=np.int64)]
        for buffer in stream_buffers(
            groups, stream=stream, streams=streams, buffer_rows=buffer_rows
        ):
            assert buffer.first == sum(map(len, parts))
            stored = np.concatenate(
                [p.group.first_row + np.arange(p.begin, p.end) for p in buffer.ranges]
            )
            parts.append(stored[permutation(buffer, seed=seed, epoch=epoch)])
        by_stream.append(np.concatenate(parts))
    return np.array([by_stream[q % streams][q // streams] for q in range(sum(rows))])


@given(
    rows=sizes, streams=st.integers(1, 7), buffer_rows=st.integers(0, 100), seed=st.integers(0, 5)
)
def test_every_row_once_in_an_epoch(rows, streams, buffer_rows, seed):
    order = epoch_order(rows, streams, buffer_rows, seed)
    assert sorted(order) == list(range(sum(rows)))


def test_epochs_and_seeds_differ_and_repeat():
    rows = [50] * 10
    first = epoch_order(rows, 2, 100, seed=1)
    assert list(first) == list(epoch_order(rows, 2, 100, seed=1))
    assert list(first) != list(epoch_order(rows, 2, 100, seed=1, epoch=1))
    assert list(first) != list(epoch_order(rows, 2, 100, seed=2))


@given(position=st.integers(0, 200), streams=st.integers(1, 9))
def test_the_streams_rows_before_a_position_are_counted(position, streams):
    for stream in range(streams):
        assert stream_position(position, stream, streams) == len(range(stream, position, streams))


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


@given(
    begin=st.integers(0, 100),
    rows=st.integers(1, 100),
    streams=st.integers(1, 9),
    world_size=st.integers(1, 9),
)
def test_shares_of_a_step_are_disjoint_even_and_complete(begin, rows, streams, world_size):
    end = begin + rows
    held, seen = [], []
    for rank in range(world_size):
        parts = share(begin, end, streams=streams, rank=rank, world_size=world_size)
        positions = [i * streams + stream for stream, low, high in parts for i in range(low, high)]
        held.append(len(positions))
        seen += positions
    assert sorted(seen) == list(range(begin, end))
    assert max(held) - min(held) <= 1


def test_a_worker_reads_its_share_of_the_streams():
    for step in range(5):
        begin = step * 64
        for rank in range(4):
            parts = share(begin, begin + 64, streams=8, rank=rank, world_size=4)
            assert [stream for stream, _, _ in parts] == [2 * rank, 2 * rank + 1]


@pytest.mark.parametrize("buffer_rows", [1, 60, 10_000])
def test_buffers_hold_at_least_their_rows_and_whole_row_groups(buffer_rows):
    found = stream_buffers(groups_of([25] * 9), stream=0, streams=1, buffer_rows=buffer_rows)
    assert all(buffer.rows >= min(buffer_rows, 225) for buffer in found[:-1])
    assert all(p.begin == 0 and p.end == 25 for buffer in found for p in buffer.ranges)
    assert all(a.end == b.first for a, b in pairwise(found))
    assert sum(buffer.rows for buffer in found) == 225


def test_few_row_groups_make_few_streams():
    assert [stream_count(8, groups_of([10] * n)) for n in (1, 7, 8, 31, 32, 1000)] == [
        1,
        1,
        2,
        7,
        8,
        8,
    ]
