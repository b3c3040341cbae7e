"""How all rows are divided into splits, once it is known how many there are of each kind.

Every shard is tallied while it is read. From the tallies of all, in log order, follows the split of
each row: no matter in which order they are done, nor how the log is cut into shards (but for a
split by time where the log has more distinct times than a tally holds).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocessing.config.settings import SplitConfig
from preprocessing.split import assign as split

TALLY_BINS = 4096
"""Distinct times that a tally tells apart; beyond them it joins neighbours."""
TOTAL_BINS = 2**20
"""The same of all shards together."""


class Histogram:
    """How many rows there are at each time; bounded, and merged without loss beyond the bins' own.

    Bins are 2^shift seconds wide, with the smallest shift that needs no more bins than allowed;
    empty ones take no room. So a log of few distinct times is counted exactly.
    """

    def __init__(self, limit: int = TALLY_BINS) -> None:
        self._limit = limit
        self._shift = 0
        self._bins = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)

    def add(self, seconds: np.ndarray) -> None:
        """(n,) int64 times."""
        bins, counts = np.unique(seconds >> self._shift, return_counts=True)
        self._join(bins, counts)

    def merge(self, other: Histogram) -> None:
        """Adds another's rows."""
        shift = max(self._shift, other._shift)
        self._bins >>= shift - self._shift
        self._shift = shift
        self._join(other._bins >> (shift - other._shift), other._counts)

    def first_after(self, share: float) -> int:
        """The beginning of a bin below which the share of all rows is as near to this as it can be.

        A share above 0 has one bin at least.
        """
        shares = np.concatenate([[0.0], np.cumsum(self._counts) / self._counts.sum()])
        index = int(np.argmin(np.abs(shares - share)))
        if share > 0:
            index = max(index, 1)
        begin = int(self._bins[index]) if index < len(self._bins) else int(self._bins[-1]) + 1
        return min(begin << self._shift, 2**63 - 1)

    def _join(self, bins: np.ndarray, counts: np.ndarray) -> None:
        bins, counts = np.concatenate([self._bins, bins]), np.concatenate([self._counts, counts])
        while True:
            distinct, index = np.unique(bins, return_inverse=True)
            if len(distinct) <= self._limit:
                break
            bins >>= 1
            self._shift += 1
        self._bins = distinct
        self._counts = np.bincount(index, counts, len(distinct)).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """Its state."""
        gaps = np.diff(self._bins, prepend=0)
        return {"shift": self._shift, "gaps": gaps.tolist(), "counts": self._counts.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Histogram:
        """From :meth:`to_json`."""
        new = cls()
        new._shift = values["shift"]
        new._bins = np.cumsum(np.asarray(values["gaps"], np.int64))
        new._counts = np.asarray(values["counts"], np.int64)
        return new


@dataclass
class Tally:
    """What the division of all rows needs to know of a shard; made while the shard is read."""

    rows: int = 0
    positives: int = 0
    times: Histogram | None = None
    """Only for a split by time and fractions."""

    @classmethod
    def of(cls, config: SplitConfig) -> Tally:
        """An empty one."""
        needed = config.by == "time" and not config.times
        return cls(times=Histogram() if needed else None)

    def add(self, label: np.ndarray, seconds: np.ndarray | None) -> None:
        """Further rows of the shard.

        Args:
            label: (n,) 0 or 1.
            seconds: (n,) int64 timestamps; needed for a split by time alone.
        """
        self.rows += len(label)
        self.positives += int(np.count_nonzero(label))
        if self.times is not None:
            assert seconds is not None
            self.times.add(seconds)

    def to_json(self) -> dict[str, Any]:
        """Its state."""
        times = None if self.times is None else self.times.to_json()
        return {"rows": self.rows, "positives": self.positives, "times": times}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Tally:
        """From :meth:`to_json`."""
        times = values["times"]
        return cls(
            rows=values["rows"],
            positives=values["positives"],
            times=None if times is None else Histogram.from_json(times),
        )


@dataclass(frozen=True)
class Division:
    """How the rows of all shards are divided. Small; made by :meth:`of`."""

    config: SplitConfig
    rows: tuple[int, ...]
    """Before each shard, and in all."""
    positives: tuple[int, ...]
    """The same."""
    names: tuple[str | None, ...]
    """The split of each shard, where whole files are assigned to splits."""
    edges: tuple[int, int] = (0, 0)
    """First row, or first second, of valid and of test."""

    @classmethod
    def of(
        cls, config: SplitConfig, tallies: Sequence[Tally], names: Sequence[str | None]
    ) -> Division:
        """From the tallies of all shards in log order, and their splits.

        Raises:
            DataError: the division leaves no row for training.
        """
        rows = tuple(itertools.accumulate((t.rows for t in tallies), initial=0))
        positives = tuple(itertools.accumulate((t.positives for t in tallies), initial=0))
        edges = (0, 0)
        if config.by == "position":
            edges = split.bounds(config, rows[-1])
        elif config.by == "time":
            edges = _times(config, tallies)
        return cls(config, rows, positives, tuple(names), edges)

    def shard(self, index: int) -> Assigner:
        """For the rows of one shard."""
        return Assigner(self, index)


@dataclass
class Assigner:
    """Tells the splits of a shard's rows, block after block in their order."""

    division: Division
    index: int
    """Of the shard."""
    _seen: int = 0
    _positives: int = 0

    def next(
        self,
        label: np.ndarray,
        seconds: np.ndarray | None = None,
        row_hash: np.ndarray | None = None,
    ) -> np.ndarray:
        """(n,) int8 index into SPLITS of the next n rows.

        Args:
            label: (n,) 0 or 1.
            seconds: (n,) int64 timestamps; needed for a split by time.
            row_hash: (n,) uint64 of :func:`preprocessing.split.assign.row_hash`, for one by hash.
        """
        division, config = self.division, self.division.config
        first = division.rows[self.index] + self._seen
        positive = label != 0
        positives = division.positives[self.index] + self._positives
        self._seen += len(label)
        self._positives += int(positive.sum())
        name = division.names[self.index]
        if name is not None:
            return split.by_name(name, len(label))
        if config.by == "position":
            return split.by_position(first, len(label), division.edges)
        if config.by == "time":
            assert seconds is not None
            return split.by_time(seconds, division.edges)
        if config.by == "hash":
            assert row_hash is not None
            return split.by_row_hash(row_hash, config)
        chosen = np.zeros(len(label), np.int8)
        for value, before, total in (
            (False, first - positives, division.rows[-1] - division.positives[-1]),
            (True, positives, division.positives[-1]),
        ):
            mine = positive == value
            ranks = np.arange(before, before + int(mine.sum()))
            chosen[mine] = split.by_draw(ranks, total, config, int(value))
        return chosen


def _times(config: SplitConfig, tallies: Sequence[Tally]) -> tuple[int, int]:
    if config.times:
        return config.times[0], config.times[1]
    total = Histogram(TOTAL_BINS)
    for tally in tallies:
        assert tally.times is not None
        if tally.rows:
            total.merge(tally.times)
    if not sum(tally.rows for tally in tallies):
        return 0, 0
    train, valid, _ = config.fractions
    first = total.first_after(train)
    return first, max(first, total.first_after(train + valid))
