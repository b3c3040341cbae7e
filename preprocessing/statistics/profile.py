"""Profile of a data set's rows: counts by split and label that can be merged, of bounded size."""

# n rows, G = 6 groups of rows: split · 2 + label

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from ctrdist.data.manifest import SPLITS
from ctrdist.features.encode import Encoded, LocalRows
from ctrdist.native.histogram import count_ids
from ctrdist.schema import FIRST_VALUE_ID, CategoricalField, Schema
from preprocessing.statistics.histogram import NumberCounts

GROUPS = 2 * len(SPLITS)
HEAD = 1024
"""Ids of a field that are counted one by one; the others are counted together."""
NUMBER_BITS = 6
"""Numbers are counted in bins of at most 1.6 %; integers up to 128 one by one."""
MOST_STEPS = 500
"""Upper bound of the points of a series."""
TIME_WIDTHS = (1, 10, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 86400, 7 * 86400, 28 * 86400)
"""Seconds; each divides the next."""


@dataclass
class Series:
    """Rows and clicks over position or time, in at most MOST_STEPS steps; merged exactly.

    A step has the least width of a fixed ladder that needs no more steps: it depends on the first
    and the last row alone, not on the order in which rows are added.
    """

    time: bool
    """Rows are ordered by seconds since 1970; otherwise by their index in the log."""
    level: int = 0
    """Index of the width in its ladder."""
    first: int = 0
    """Index of the first step, in steps from 0."""
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, GROUPS), np.int64))
    """(steps, G)."""

    @property
    def width(self) -> int:
        """Seconds or rows of a step."""
        return self._width(self.level)

    def add(self, at: np.ndarray, group: np.ndarray) -> None:
        """Counts rows at these times or indices, (n,) int64, of these groups, (n,) uint8."""
        if len(at):
            self._cover(int(at.min()), int(at.max()))
            keys = (at // self.width - self.first) * GROUPS + group
            counts = np.bincount(keys, minlength=self.counts.size)
            self.counts += counts.reshape(self.counts.shape)

    def merge(self, other: Series) -> None:
        """Adds the counts of other rows."""
        if len(other.counts):
            starts = np.arange(other.first, other.first + len(other.counts)) * other.width
            self._cover(int(starts[0]), int(starts[-1]) + other.width - 1, other.level)
            np.add.at(self.counts, starts // self.width - self.first, other.counts)

    def _cover(self, low: int, high: int, level: int = 0) -> None:
        """Makes room for the steps from `low` to `high`, of this level at least."""
        starts = np.arange(self.first, self.first + len(self.counts)) * self.width
        if len(starts):
            low, high = min(low, int(starts[0])), max(high, int(starts[-1]) + self.width - 1)
        self.level = max(self._level_for(low, high), self.level, level)
        self.first, before = low // self.width, self.counts
        self.counts = np.zeros((high // self.width - self.first + 1, GROUPS), np.int64)
        np.add.at(self.counts, starts // self.width - self.first, before)

    def _level_for(self, low: int, high: int) -> int:
        level = 0
        while high // self._width(level) - low // self._width(level) >= MOST_STEPS:
            level += 1
        return level

    def _width(self, level: int) -> int:
        if not self.time:  # 1, 5, 10, 50, 100, …
            return 10 ** (level // 2) * (5 if level % 2 else 1)
        beyond = max(0, level - len(TIME_WIDTHS) + 1)
        return TIME_WIDTHS[level - beyond] * 2**beyond


@dataclass
class Profile:
    """Counts of the rows of a data set, by split and label.

    It is the same for parts that are merged in any order, the sums of numbers excepted, which
    depend on the order by their rounding. It takes about 20 KiB for a number and at most 48 KiB for
    a field.
    """

    schema: Schema
    hashed: list[str]
    """Fields whose ids are not in order of falling count. Where such a field has more than HEAD
    ids, several share a cell."""
    groups: np.ndarray
    """(G,) rows."""
    numbers: dict[str, NumberCounts]
    """By numeric field."""
    ids: dict[str, np.ndarray]
    """Field → (cells, G) rows, or values where multi-valued, that have the id. The last cell has
    all ids from HEAD on, unless the field is hashed."""
    missing: dict[str, int]
    """Field → rows without a value."""
    series: Series

    @classmethod
    def empty(cls, schema: Schema, hashed: Collection[str] = ()) -> Profile:
        """The profile of no rows of a data set; `hashed` as above."""
        return cls(
            schema,
            sorted(hashed),
            np.zeros(GROUPS, np.int64),
            {name: NumberCounts.empty(GROUPS, NUMBER_BITS) for name in schema.numeric},
            {f.name: np.zeros((_cells(f), GROUPS), np.int64) for f in schema.categorical},
            {f.name: 0 for f in schema.categorical},
            Series(time=schema.timestamp is not None),
        )

    def add(self, split: np.ndarray, rows: LocalRows, encoded: Encoded, index: np.ndarray) -> None:
        """Counts a block of rows, whose splits are (n,) int8 indices into SPLITS.

        `encoded` are the same rows as they are stored; `index`, (n,) int64, their place in the log.
        """
        group = (2 * split + (rows.label > 0.5)).astype(np.uint8)
        self.groups += np.bincount(group, minlength=GROUPS)
        for name, counted in self.numbers.items():
            counted.add(rows.numbers[name], group)
        for name, table in self.ids.items():
            given = encoded.ids[name]
            if isinstance(given, tuple):
                lengths = np.diff(given[0])
                flat = given[1][given[0][0] : given[0][-1]]
                self.missing[name] += int(np.count_nonzero(lengths == 0))
                self._count(name, table, flat, np.repeat(group, lengths))
            else:
                self.missing[name] += int(np.sum(encoded.missing.get(name, 0)))
                self._count(name, table, given, group)
        at = rows.timestamp if self.series.time else index
        assert at is not None, "the schema has a timestamp"
        self.series.add(at, group)

    def merge(self, other: Profile) -> None:
        """Adds the counts of rows that come later."""
        self.groups += other.groups
        for name, counted in self.numbers.items():
            counted.merge(other.numbers[name])
        for name, table in self.ids.items():
            table += other.ids[name]
            self.missing[name] += other.missing[name]
        self.series.merge(other.series)

    def _count(self, name: str, table: np.ndarray, ids: np.ndarray, group: np.ndarray) -> None:
        fold = name in self.hashed
        cells = HEAD if fold and len(table) > HEAD else len(table)
        folded = fold and cells < len(table)
        count_ids(ids, group, table, cells, spread_from=FIRST_VALUE_ID if folded else 0)


def _cells(field: CategoricalField) -> int:
    return min(max(field.vocabulary_size, FIRST_VALUE_ID + 1), HEAD + 1)
