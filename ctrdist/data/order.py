"""The order in which rows are seen, as pure functions of the files, the seed and the epoch.

No worker count enters: the order is one global sequence, cut into steps, and each step's rows are
shared out to the workers. So any number of workers sees the same rows in the same steps, and a run
may go on with another number.
"""

# W rows of a window, G rows of a step on all workers

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctrdist.data.manifest import Split


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
class Window:
    """Row groups that are read together; rows are permuted within."""

    index: int
    """Number of the window in the epoch."""
    first_position: int
    """Position in the epoch's order of its first row."""
    groups: tuple[RowGroup, ...]
    """In the order in which they are joined."""

    @property
    def rows(self) -> int:
        """W."""
        return sum(group.rows for group in self.groups)


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


def windows(groups: Sequence[RowGroup], *, window_rows: int, seed: int, epoch: int) -> list[Window]:
    """Cuts the row groups into windows of at least `window_rows` rows (the last may hold fewer).

    Args:
        groups: all row groups of the split.
        window_rows: W at least; 0 keeps the stored order, a window per row group.
        seed: of the run.
        epoch: number of the epoch.
    """
    ordered = list(groups)
    if window_rows > 0:
        np.random.default_rng([seed, epoch]).shuffle(ordered)  # type: ignore[arg-type]
    result: list[Window] = []
    pending: list[RowGroup] = []
    position = pending_rows = 0
    for group in ordered:
        pending.append(group)
        pending_rows += group.rows
        if pending_rows >= window_rows:
            result.append(Window(index=len(result), first_position=position, groups=tuple(pending)))
            position += pending_rows
            pending, pending_rows = [], 0
    if pending:
        result.append(Window(index=len(result), first_position=position, groups=tuple(pending)))
    return result


def permutation(window: Window, *, shuffled: bool, seed: int, epoch: int) -> np.ndarray:
    """(W,) int64: the row of the window that stands at each of its positions."""
    if not shuffled:
        return np.arange(window.rows)
    return np.random.default_rng([seed, epoch, window.index]).permutation(window.rows)


def step_bounds(rows: int, batch_size: int, start: int = 0) -> np.ndarray:
    """Where the steps of an epoch begin and end.

    Every step has `batch_size` rows, but the last two, which share what is left evenly: so no step
    is tiny, and a loss or a batch normalisation over it is as good as over any other.

    Args:
        rows: of the epoch.
        batch_size: G.
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


def share(begin: int, end: int, rank: int, world_size: int) -> tuple[int, int]:
    """The part of the positions [begin, end) that one worker computes.

    Parts differ by at most one row.
    """
    rows = end - begin
    return begin + rows * rank // world_size, begin + rows * (rank + 1) // world_size
