"""The row order of an epoch, as pure functions of the files, the seed and the epoch.

The row groups of an epoch, drawn in random order, form one long sequence. It is cut into streams of
equal length, and an epoch interleaves them: position q is row q // L of stream q mod L. Each stream
is read in shuffle buffers of whole row groups, within which rows are permuted. So each step takes
as many rows from every stream, and a worker, which computes some of a step's rows, reads only some
streams. The order does not depend on the number of workers: any number of them sees the same rows
in the same steps, and a run may resume with another number.
"""

# L interleaved streams, W rows of a shuffle buffer

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctrdist.data.manifest import Split

_GROUPS_PER_STREAM = 4
"""Least number of row groups of a stream: those at the borders of streams are read twice."""


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
class RowRange:
    """Successive rows of a row group."""

    group: RowGroup
    """The row group."""
    begin: int
    """First row of the range in the row group."""
    end: int
    """The row after its last one."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.end - self.begin


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """A shuffle buffer: rows of a stream that are read together and permuted."""

    stream: int
    """Index of the stream."""
    index: int
    """Index of the buffer in the stream."""
    first: int
    """Index in the stream of its first row."""
    ranges: tuple[RowRange, ...]
    """Its rows, in this order before they are permuted."""

    @property
    def rows(self) -> int:
        """W."""
        return sum(part.rows for part in self.ranges)

    @property
    def end(self) -> int:
        """Index in the stream of the row after its last one."""
        return self.first + self.rows


def row_groups(split: Split) -> list[RowGroup]:
    """Returns all row groups of a split that have rows, in stored order."""
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
    """Returns the row groups in the order of an epoch."""
    result = list(groups)
    np.random.default_rng([seed, epoch]).shuffle(result)  # type: ignore[arg-type]
    return result


def stream_count(wanted: int, groups: Sequence[RowGroup]) -> int:
    """Returns L: as many streams as wanted, but fewer for a split of few row groups.

    It depends on settings and data only, so it is the same for any number of workers.
    """
    return max(1, min(wanted, len(groups) // _GROUPS_PER_STREAM))


def stream_position(position: int, stream: int, streams: int) -> int:
    """Returns the number of rows of a stream before a position of the epoch."""
    return max(0, -((stream - position) // streams))


def stream_buffers(
    groups: Sequence[RowGroup], *, stream: int, streams: int, buffer_rows: int
) -> list[Buffer]:
    """Cuts one stream into buffers of whole row groups, apart from those at its borders.

    Args:
        groups: all row groups, in the order of the epoch.
        stream: index of the stream.
        streams: L.
        buffer_rows: least W (the last buffer may hold fewer rows); 0: a buffer per row group.
    """
    total = sum(group.rows for group in groups)
    begin = sum(stream_position(total, other, streams) for other in range(stream))
    end = begin + stream_position(total, stream, streams)
    result: list[Buffer] = []
    pending: list[RowRange] = []
    first = held = at = 0
    for group in groups:
        low, high = max(begin - at, 0), min(end - at, group.rows)
        at += group.rows
        if low >= high:
            continue
        pending.append(RowRange(group=group, begin=low, end=high))
        held += high - low
        if held >= buffer_rows or first + held == end - begin:
            result.append(
                Buffer(stream=stream, index=len(result), first=first, ranges=tuple(pending))
            )
            first, held, pending = first + held, 0, []
    return result


def permutation(buffer: Buffer, *, seed: int, epoch: int) -> np.ndarray:
    """Returns (W,) int64: the row of the buffer at each position after permutation."""
    return np.random.default_rng([seed, epoch, buffer.stream, buffer.index]).permutation(
        buffer.rows
    )


def step_bounds(rows: int, batch_size: int, start: int = 0) -> np.ndarray:
    """Returns the positions at which the steps of an epoch begin and end.

    Every step has `batch_size` rows, except for the last two, which share the remaining rows
    evenly. So no step is tiny, which would harm its loss and batch normalisation.

    Args:
        rows: rows of the epoch.
        batch_size: rows of a step on all workers.
        start: position at which to resume, the end of an earlier step.

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
    begin: int, end: int, *, streams: int, rank: int, world_size: int
) -> list[tuple[int, int, int]]:
    """Returns the part of a step, positions begin … end − 1, that one worker computes.

    The step's rows, stream after stream, are cut into parts that differ by at most one row. So a
    worker needs about L / world_size streams, the same ones in each step.

    Returns:
        (stream, first, end) in the order of the batch: the rows first … end − 1 of each stream.
    """
    rows = end - begin
    low, high = rows * rank // world_size, rows * (rank + 1) // world_size
    parts, at = [], 0
    for stream in range(streams):
        first = stream_position(begin, stream, streams)
        size = stream_position(end, stream, streams) - first
        a, b = max(low - at, 0), min(high - at, size)
        if a < b:
            parts.append((stream, first + a, first + b))
        at += size
    return parts
