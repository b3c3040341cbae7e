"""The split plan: the split of each row, made from the split counts of all shards.

The plan does not depend on the order in which shards are scanned. Nor does it depend on how the log
is cut into shards, except in a split by time whose shards have more distinct times than a histogram
holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ctrdist.data.manifest import SPLITS
from ctrdist.features.encode import LocalRows
from preprocessing.config.rows import SampleConfig
from preprocessing.config.settings import SplitConfig
from preprocessing.split import assign

SHARD_BINS = 4096
"""Upper bound of the bins of a shard's histogram of times."""
LEFT_OUT = -1
"""Stands in place of a split where a row is not drawn."""
TOTAL_BINS = 2**20
"""Upper bound of the bins of all shards together."""


@dataclass
class TimeHistogram:
    """Counts of rows by time, of bounded size.

    Bins are 2^shift seconds wide, with the smallest shift that needs no more bins than the limit;
    empty bins take no room. So a log of few distinct times is counted exactly.
    """

    limit: int = SHARD_BINS
    shift: int = 0
    bins: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(m,) int64, rising: the times >> shift that occur."""
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(m,) int64."""

    def add(self, seconds: np.ndarray) -> None:
        """Counts rows at these times, (n,) int64 seconds."""
        bins, counts = np.unique(seconds >> self.shift, return_counts=True)
        self._join(bins, counts)

    def merge(self, other: TimeHistogram) -> None:
        """Adds the counts of other rows."""
        shift = max(self.shift, other.shift)
        self.bins >>= shift - self.shift
        self.shift = shift
        self._join(other.bins >> (shift - other.shift), other.counts)

    def first_after(self, share: float) -> int:
        """The start of the bin before which the share of all rows is nearest to this share.

        A share above 0 has at least one bin.
        """
        shares = np.concatenate([[0.0], np.cumsum(self.counts) / self.counts.sum()])
        index = int(np.argmin(np.abs(shares - share)))
        if share > 0:
            index = max(index, 1)
        begin = int(self.bins[index]) if index < len(self.bins) else int(self.bins[-1]) + 1
        return min(begin << self.shift, 2**63 - 1)

    def _join(self, bins: np.ndarray, counts: np.ndarray) -> None:
        bins, counts = np.concatenate([self.bins, bins]), np.concatenate([self.counts, counts])
        while True:
            distinct, index = np.unique(bins, return_inverse=True)
            if len(distinct) <= self.limit:
                break
            bins >>= 1
            self.shift += 1
        self.bins = distinct
        self.counts = np.bincount(index, counts, len(distinct)).astype(np.int64)


@dataclass
class SplitCounts:
    """Counts of a shard's rows, from which the split plan is made."""

    rows: int = 0
    positives: int = 0
    times: TimeHistogram | None = None
    """Only in a split by time with fractions."""

    @classmethod
    def empty(cls, config: SplitConfig) -> SplitCounts:
        """Counts of no rows."""
        needed = config.by == "time" and not config.times
        return cls(times=TimeHistogram() if needed else None)

    def add(self, rows: LocalRows) -> None:
        """Counts further rows of the shard."""
        self.rows += len(rows.label)
        self.positives += int(np.count_nonzero(rows.label))
        if self.times is not None:
            assert rows.timestamp is not None
            self.times.add(rows.timestamp)


@dataclass(frozen=True)
class SplitPlan:
    """The split of each row of the log; small enough to be sent to each task."""

    config: SplitConfig
    rows: tuple[int, ...]
    """Rows before each shard, and rows of all shards."""
    positives: tuple[int, ...]
    """Rows with label 1, likewise."""
    names: tuple[str | None, ...]
    """The split of each shard, where whole files are assigned to splits."""
    edges: tuple[int, int] = (0, 0)
    """First row, or first second, of valid and of test."""
    sample: SampleConfig = field(default_factory=SampleConfig)

    @classmethod
    def of(
        cls,
        config: SplitConfig,
        counts: Sequence[SplitCounts],
        names: Sequence[str | None],
        sample: SampleConfig | None = None,
    ) -> SplitPlan:
        """Makes the plan from the counts of all shards in the order of the log."""
        rows = tuple(itertools.accumulate((c.rows for c in counts), initial=0))
        positives = tuple(itertools.accumulate((c.positives for c in counts), initial=0))
        edges = (0, 0)
        if config.by == "position":
            edges = assign.bounds(config, rows[-1])
        elif config.by == "time":
            edges = _time_edges(config, counts)
        return cls(config, rows, positives, tuple(names), edges, sample or SampleConfig())

    def all_train(self, index: int) -> bool:
        """Tells whether it is known without its rows that all of a shard is for training."""
        if self.sample.draws:
            return False
        return self.config.by == "position" and self.rows[index + 1] <= self.edges[0]


@dataclass
class Assigner:
    """Assigns a shard's rows to splits, block by block in their order."""

    plan: SplitPlan
    index: int
    """Index of the shard."""
    _seen: int = 0
    _positives: int = 0

    def next(self, rows: LocalRows) -> np.ndarray:
        """The splits of the next n rows, (n,) int8 indices into SPLITS, or LEFT_OUT."""
        sample, first = self.plan.sample, self.plan.rows[self.index] + self._seen
        chosen = self._splits(rows)
        if sample.draws:
            drawn = np.isin(chosen, [SPLITS.index(name) for name in sample.splits])
            drawn &= rows.label == 0
            index = first + np.flatnonzero(drawn)
            chosen[drawn] = np.where(assign.is_drawn(index, sample), chosen[drawn], LEFT_OUT)
        return chosen

    def _splits(self, rows: LocalRows) -> np.ndarray:
        label = rows.label
        plan, config = self.plan, self.plan.config
        first = plan.rows[self.index] + self._seen
        positive = label != 0
        positives = plan.positives[self.index] + self._positives
        self._seen += len(label)
        self._positives += int(positive.sum())
        name = plan.names[self.index]
        if name is not None:
            return np.full(len(label), SPLITS.index(name), np.int8)
        if config.by == "position":
            return assign.by_edges(np.arange(first, first + len(label)), plan.edges)
        if config.by == "time":
            assert rows.timestamp is not None
            return assign.by_edges(rows.timestamp, plan.edges)
        if config.by == "hash":
            assert rows.row_hash is not None
            return assign.by_row_hash(rows.row_hash, config)
        chosen = np.zeros(len(label), np.int8)
        for value, before, total in (
            (False, first - positives, plan.rows[-1] - plan.positives[-1]),
            (True, positives, plan.positives[-1]),
        ):
            mine = positive == value
            positions = np.arange(before, before + int(mine.sum()))
            chosen[mine] = assign.by_draw(positions, total, config, int(value))
        return chosen


def _time_edges(config: SplitConfig, counts: Sequence[SplitCounts]) -> tuple[int, int]:
    if config.times:
        return config.times[0], config.times[1]
    total = TimeHistogram(TOTAL_BINS)
    for shard in counts:
        assert shard.times is not None
        if shard.rows:
            total.merge(shard.times)
    if not sum(shard.rows for shard in counts):
        return 0, 0
    train, valid, _ = config.fractions
    first = total.first_after(train)
    return first, max(first, total.first_after(train + valid))
