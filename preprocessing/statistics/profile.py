"""What is known of the rows of a data set: counts that can be merged, of bounded size."""

# n rows, G = 6 groups of rows: split · 2 + label

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ctrdist.data.manifest import SPLITS
from ctrdist.features.encode import Ids
from ctrdist.native.histogram import count_ids
from ctrdist.schema import FIRST_VALUE_ID, CategoricalField, Schema
from preprocessing.statistics.histogram import NumberCounts, offset_for

GROUPS = 2 * len(SPLITS)
HEAD = 1024
"""Ids of a field that are counted one by one; the others together."""
NUMBER_BITS = 6
"""Numbers are counted in bins of 1.6 % and less; integers up to 128 one by one."""
MOST_STEPS = 500
"""At most so many points of the click rate over place or time."""
TIME_WIDTHS = (1, 10, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 86400, 7 * 86400, 28 * 86400)
"""Seconds; each divides the next."""


class Series:
    """Rows and clicks over place or time, in at most MOST_STEPS steps; exact to merge.

    The width of a step is the least of a fixed ladder that makes do with so many steps: it depends
    on the first and the last place alone, not on the order in which they come.
    """

    def __init__(self, *, time: bool) -> None:
        self.time = time
        """Whether places are seconds since 1970; otherwise they are numbers of rows."""
        self.level = 0
        self.first = 0
        """Place of the first step, in steps."""
        self.counts = np.zeros((0, GROUPS), np.int64)
        """(steps, G)."""

    @property
    def width(self) -> int:
        """Seconds or rows of a step."""
        return self._width(self.level)

    def add(self, places: np.ndarray, group: np.ndarray) -> None:
        """Counts rows at these places, (n,) int64, of these groups, (n,) uint8."""
        if not len(places):
            return
        low, high = int(places.min()), int(places.max())
        level = self._level_for(low, high)
        first = low // self._width(level)
        steps = high // self._width(level) - first + 1
        keys = (places // self._width(level) - first) * GROUPS + group
        counts = np.bincount(keys, minlength=steps * GROUPS).reshape(steps, GROUPS)
        self._join(level, first, counts)

    def merge(self, other: Series) -> None:
        """Adds what another has counted."""
        if len(other.counts):
            self._join(other.level, other.first, other.counts)

    def to_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "time": self.time,
            "level": self.level,
            "first": self.first,
            "counts": _packed(self.counts),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Series:
        """What :meth:`to_json` made."""
        series = cls(time=raw["time"])
        series.level, series.first = raw["level"], raw["first"]
        series.counts = _unpacked(raw["counts"], GROUPS)
        return series

    def _join(self, level: int, first: int, counts: np.ndarray) -> None:
        parts = [(level, first, counts)]
        if len(self.counts):
            parts.append((self.level, self.first, self.counts))
        low = min(f * self._width(one) for one, f, _ in parts)
        high = max((f + len(c)) * self._width(one) - 1 for one, f, c in parts)
        level = max(self._level_for(low, high), *(one for one, _, _ in parts), 0)
        width = self._width(level)
        self.first = low // width
        joined = np.zeros((high // width - self.first + 1, GROUPS), np.int64)
        for one, f, c in parts:
            steps = (np.arange(f, f + len(c)) * self._width(one)) // width - self.first
            np.add.at(joined, steps, c)
        self.level, self.counts = level, joined

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


class Profile:
    """Counts of the rows that were written, by split and label.

    Parts merged in the same order give the same, bit for bit; but for the means of numbers they do
    so in any order. It takes about 20 KiB for a number and at most 48 KiB for a field.
    """

    def __init__(
        self,
        schema: Schema,
        folded: Collection[str] = (),
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """Of no rows.

        Args:
            schema: of the data set.
            folded: fields whose ids do not go by falling count (hashes). Where there are more ids
                than HEAD, several share a cell.
            ranges: numeric field → its least and greatest number, where known: numbers in a narrow
                range far from 0 are then told apart. Equal in all parts that are merged.
        """
        self.schema = schema
        self.folded = frozenset(folded)
        self.groups = np.zeros(GROUPS, np.int64)
        """(G,) rows."""
        offsets = {name: offset_for(*pair) for name, pair in (ranges or {}).items()}
        self.numbers = {
            name: NumberCounts(GROUPS, NUMBER_BITS, offsets.get(name, 0.0))
            for name in schema.numeric
        }
        self.ids = {f.name: np.zeros((_cells(f), GROUPS), np.int64) for f in schema.categorical}
        """Field → (cells, G) rows, or values where multi-valued, that have the id; the last cell
        has all ids from HEAD on, unless the field is folded."""
        self.missing = dict.fromkeys(self.ids, 0)
        """Field → rows without a value."""
        self.series = Series(time=schema.timestamp is not None)

    def add(
        self,
        split: np.ndarray,
        label: np.ndarray,
        numbers: Mapping[str, np.ndarray],
        ids: Mapping[str, Ids],
        missing: Mapping[str, int | np.ndarray],
        timestamp: np.ndarray | None = None,
        first_row: int = 0,
    ) -> None:
        """Counts a block of rows.

        Args:
            split: (n,) int8 index into SPLITS.
            label: (n,) float32, 0 or 1.
            numbers: each numeric field → (n,) float64 before any transform, NaN where missing.
            ids: each categorical field → its ids.
            missing: categorical field → number of rows that have no value, or (n,) bool; of a
                multi-valued field it is not needed.
            timestamp: (n,) int64 seconds, where the schema has one.
            first_row: place of the first of these rows in the log.
        """
        group = (2 * split + (label > 0.5)).astype(np.uint8)
        self.groups += np.bincount(group, minlength=GROUPS)
        for name, counted in self.numbers.items():
            counted.add(numbers[name], group)
        for name, table in self.ids.items():
            given = ids[name]
            if isinstance(given, tuple):
                lengths = np.diff(given[0])
                flat = given[1][given[0][0] : given[0][-1]]
                self.missing[name] += int(np.count_nonzero(lengths == 0))
                self._count(name, table, flat, np.repeat(group, lengths))
            else:
                self.missing[name] += int(np.sum(missing.get(name, 0)))
                self._count(name, table, given, group)
        places = timestamp if self.series.time else np.arange(first_row, first_row + len(group))
        assert places is not None, "the schema has a timestamp"
        self.series.add(places, group)

    def merge(self, other: Profile) -> None:
        """Adds what another has counted, of rows that come later."""
        self.groups += other.groups
        for name, counted in self.numbers.items():
            counted.merge(other.numbers[name])
        for name, table in self.ids.items():
            table += other.ids[name]
            self.missing[name] += other.missing[name]
        self.series.merge(other.series)

    def to_json(self) -> dict[str, Any]:
        """For a JSON file: tables are compressed, some 350 KB for 39 columns."""
        numbers = {
            name: {
                "bins": _packed(counted.bins),
                "counts": _packed(counted.counts),
                "missing": counted.missing.tolist(),
                "offset": counted.offset,
                "sum": counted.sum,
                "range": [counted.least, counted.greatest] if counted.count else None,
            }
            for name, counted in self.numbers.items()
        }
        return {
            "folded": sorted(self.folded),
            "groups": self.groups.tolist(),
            "numbers": numbers,
            "ids": {name: _packed(table) for name, table in self.ids.items()},
            "missing": self.missing,
            "series": self.series.to_json(),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any], schema: Schema) -> Profile:
        """What :meth:`to_json` made, of a data set of this schema."""
        profile = cls(schema, raw["folded"])
        profile.groups[:] = raw["groups"]
        for name, values in raw["numbers"].items():
            counted = profile.numbers[name]
            counted.bins = _unpacked(values["bins"])
            counted.counts = _unpacked(values["counts"], GROUPS)
            counted.missing[:] = values["missing"]
            counted.offset, counted.sum = values["offset"], values["sum"]
            counted.least, counted.greatest = values["range"] or (math.inf, -math.inf)
        for name, table in raw["ids"].items():
            profile.ids[name][:] = _unpacked(table, GROUPS)
        profile.missing.update(raw["missing"])
        profile.series = Series.from_json(raw["series"])
        return profile

    def _count(self, name: str, table: np.ndarray, ids: np.ndarray, group: np.ndarray) -> None:
        fold = name in self.folded
        cells = HEAD if fold and len(table) > HEAD else len(table)
        folded = fold and cells < len(table)
        count_ids(ids, group, table, cells, spread_from=FIRST_VALUE_ID if folded else 0)


def _cells(field: CategoricalField) -> int:
    return min(max(field.vocabulary_size, FIRST_VALUE_ID + 1), HEAD + 1)


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(array.astype("<i8").tobytes(), 6)).decode()


def _unpacked(text: str, columns: int | None = None) -> np.ndarray:
    flat = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i8").astype(np.int64)
    return flat if columns is None else flat.reshape(-1, columns)
