"""The order in which rows are seen, as pure functions of the files, the seed and the epoch.

The row groups of an epoch, drawn in random order, form one long sequence. It is cut into lanes of
equal length, and an epoch takes rows from all lanes in turn: position q is row q // L of lane
q mod L. So each step takes as much from every lane, and a worker that computes some of a step's
rows need read some lanes only. No worker count enters: any number of workers sees the same rows in
the same steps, and a run may go on with another number.
"""

# L lanes, W rows of a window

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctrdist.data.manifest import Split

_GROUPS_PER_LANE = 4
"""Row groups that a lane holds at least: lanes cut row groups, and both sides read a cut one."""


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """One row group of a split's Parquet files."""

    file: int
    """Index of the file in the split."""
    index: int
    """Index of the row group in the file."""
    first_row: int
    """Index in the split of its first row."""
    rows: int
    """Number of its rows."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some rows of a row group."""

    group: RowGroup
    """Which."""
    begin: int
    """Its first row that belongs to the piece."""
    end: int
    """The row after its last."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.end - self.begin


@dataclass(frozen=True, kw_only=True)
class Window:
    """Rows of a lane that are read together; they are permuted within."""

    lane: int
    """Number of the lane."""
    index: int
    """Number of the window in the lane."""
    first: int
    """Index in the lane of its first row."""
    pieces: tuple[Piece, ...]
    """In the order in which they are joined."""

    @property
    def rows(self) -> int:
        """W."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def end(self) -> int:
        """Index in the lane of the row after its last."""
        return self.first + self.rows


def row_groups(split: Split) -> list[RowGroup]:
    """All row groups of a split, in stored order; empty ones left out."""
    groups: list[RowGroup] = []
    first_row = 0
    for file_index, file in enumerate(split.files):
        for index, rows in enumerate(file.row_groups):
            if rows:
                groups.append(
                    RowGroup(file=file_index, index=index, first_row=first_row, rows=rows)
                )
            first_row += rows
    return groups


def shuffled(groups: Sequence[RowGroup], *, seed: int, epoch: int) -> list[RowGroup]:
    """The row groups in the order of an epoch."""
    result = list(groups)
    np.random.default_rng([seed, epoch]).shuffle(result)  # type: ignore[arg-type]
    return result


def lane_count(wanted: int, groups: Sequence[RowGroup]) -> int:
    """L: as many lanes as wanted, but fewer for a split of few row groups.

    Depends on settings and data alone, so that it is the same for any number of workers.
    """
    return max(1, min(wanted, len(groups) // _GROUPS_PER_LANE))


def lane_position(position: int, lane: int, lanes: int) -> int:
    """How many rows of a lane stand before a position of the epoch."""
    return max(0, -((lane - position) // lanes))


def lane_windows(
    groups: Sequence[RowGroup], *, lane: int, lanes: int, window_rows: int
) -> list[Window]:
    """Cuts one lane into windows of whole row groups, as far as the lane has them whole.

    Args:
        groups: all row groups, in the order of the epoch.
        lane: which.
        lanes: L.
        window_rows: W at least (the last may hold fewer); 0: a window per row group.
    """
    total = sum(group.rows for group in groups)
    begin = sum(lane_position(total, other, lanes) for other in range(lane))
    end = begin + lane_position(total, lane, lanes)
    result: list[Window] = []
    pending: list[Piece] = []
    first = held = at = 0
    for group in groups:
        low, high = max(begin - at, 0), min(end - at, group.rows)
        at += group.rows
        if low >= high:
            continue
        pending.append(Piece(group=group, begin=low, end=high))
        held += high - low
        if held >= window_rows:
            result.append(Window(lane=lane, index=len(result), first=first, pieces=tuple(pending)))
            first, held, pending = first + held, 0, []
    if pending:
        result.append(Window(lane=lane, index=len(result), first=first, pieces=tuple(pending)))
    return result


def permutation(window: Window, *, seed: int, epoch: int) -> np.ndarray:
    """(W,) int64: the row of the window that stands at each of its positions."""
    return np.random.default_rng([seed, epoch, window.lane, window.index]).permutation(window.rows)


def step_bounds(rows: int, batch_size: int, start: int = 0) -> np.ndarray:
    """Where the steps of an epoch begin and end.

    Every step has `batch_size` rows, but the last two, which share what is left evenly: so no step
    is tiny, and a loss or a batch normalisation over it is as good as over any other.

    Args:
        rows: of the epoch.
        batch_size: of a step on all workers.
        start: position at which to go on; where a step ended before.

    Returns:
        (S + 1,) int64 positions: step s sees positions bounds[s] … bounds[s + 1] − 1 of the
        epoch's order.
    """
    left = rows - start
    if left <= 0:
        return np.array([start])
    full, rest = divmod(left, batch_size)
    sizes = [batch_size] * full
    if rest and full:
        both = batch_size + rest
        sizes[-1:] = [both - both // 2, both // 2]
    elif rest:
        sizes = [rest]
    return start + np.concatenate([[0], np.cumsum(sizes)])


def share(
    begin: int, end: int, *, lanes: int, rank: int, world_size: int
) -> list[tuple[int, int, int]]:
    """The part of a step, positions begin … end − 1, that one worker computes.

    The step's rows, lane after lane, are cut into parts that differ by at most one row. So a worker
    needs about L / (number of workers) lanes, the same ones in each step.

    Returns:
        (lane, first, end): rows of each lane, by their index in it, in the order of the batch.
    """
    rows = end - begin
    low, high = rows * rank // world_size, rows * (rank + 1) // world_size
    parts, at = [], 0
    for lane in range(lanes):
        first = lane_position(begin, lane, lanes)
        size = lane_position(end, lane, lanes) - first
        a, b = max(low - at, 0), min(high - at, size)
        if a < b:
            parts.append((lane, first + a, first + b))
        at += size
    return parts
