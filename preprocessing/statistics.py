"""What is learned from the training rows: vocabularies, and moments of numeric columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.data.manifest import SPLITS
from ctrdist.schema import FIRST_VALUE_ID
from preprocessing.config import ColumnConfig, PreprocessConfig
from preprocessing.fields import Fields

_COMPACT_ROWS = 2**20


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared deviations of some values."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of values without NaN."""
        if not len(values):
            return cls()
        mean = float(values.mean())
        return cls(len(values), mean, float(np.square(values - mean).sum()))

    def __add__(self, other: Moments) -> Moments:
        """Of both sets of values (Chan, Golub, LeVeque 1979)."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        delta = other.mean - self.mean
        mean = self.mean + delta * other.count / count
        return Moments(
            count, mean, self.squares + other.squares + delta**2 * self.count * other.count / count
        )

    @property
    def deviation(self) -> float:
        """Population standard deviation; 1 where all values are equal, so that it can divide."""
        return math.sqrt(self.squares / self.count) if self.count and self.squares > 0 else 1.0


@dataclass
class Counts:
    """Of one shard or of several: rows and positives by split, and what its training rows hold."""

    rows: np.ndarray = field(default_factory=lambda: np.zeros(len(SPLITS), np.int64))
    """(3,) by split."""
    positives: np.ndarray = field(default_factory=lambda: np.zeros(len(SPLITS), np.int64))
    """(3,) rows with label 1, by split."""
    values: dict[str, pa.Table] = field(default_factory=dict)
    """Categorical field → value (string) and count (int64), a value possibly several times."""
    moments: dict[str, Moments] = field(default_factory=dict)
    """Numeric field → moments of its transformed values."""

    def add(self, fields: Fields, split: np.ndarray, columns: Sequence[ColumnConfig]) -> None:
        """Counts a block; `split` is (n,) index of each row's split."""
        self.rows += np.bincount(split, minlength=len(SPLITS))
        self.positives += np.bincount(split, weights=fields.label, minlength=len(SPLITS)).astype(
            np.int64
        )
        train = split == 0
        for name, values in fields.numbers.items():
            chosen = values[train & ~np.isnan(values)]
            self.moments[name] = self.moments.get(name, Moments()) + Moments.of(chosen)
        for column in columns:
            tokens = fields.tokens[column.name].filter(pa.array(train))
            if column.role == "multi_valued":
                tokens = pc.list_flatten(tokens)
            elif column.missing == "token":
                tokens = tokens.fill_null("")
            counted = pc.value_counts(tokens.drop_null())
            self._append(
                column.name,
                pa.table([counted.field("values"), counted.field("counts")], ["value", "count"]),
            )

    def merge(self, other: Counts) -> None:
        """Adds the counts of a later shard."""
        self.rows += other.rows
        self.positives += other.positives
        for name, moments in other.moments.items():
            self.moments[name] = self.moments.get(name, Moments()) + moments
        for name, table in other.values.items():
            self._append(name, table)

    def compact(self) -> Counts:
        """Each value once; returns itself."""
        self.values = {name: _summed(table) for name, table in self.values.items()}
        return self

    def _append(self, name: str, table: pa.Table) -> None:
        if name in self.values:
            table = pa.concat_tables([self.values[name], table])
        self.values[name] = _summed(table) if table.num_rows > _COMPACT_ROWS else table


def _summed(table: pa.Table) -> pa.Table:
    total = table.group_by("value", use_threads=False).aggregate([("count", "sum")])
    return total.rename_columns({"count_sum": "count"}).select(["value", "count"]).combine_chunks()


def vocabulary(counts: pa.Table, min_count: int) -> pa.Table:
    """Values with their ids: those of at least min_count rows, by falling count, ties by bytes.

    Args:
        counts: value and count, each value once.
        min_count: the threshold.

    Returns:
        value string, id int32 from 2 upwards, count int64.
    """
    kept = counts.filter(pc.greater_equal(counts.column("count"), min_count))
    kept = kept.sort_by([("count", "descending"), ("value", "ascending")]).combine_chunks()
    ids = pa.array(np.arange(FIRST_VALUE_ID, FIRST_VALUE_ID + kept.num_rows, dtype=np.int32))
    return pa.table({"value": kept.column("value"), "id": ids, "count": kept.column("count")})


@dataclass(frozen=True)
class Encoding:
    """How fields become ids and standardised numbers."""

    vocabularies: Mapping[str, pa.Table]
    """By categorical field, see :func:`vocabulary`."""
    moments: Mapping[str, Moments]
    """By numeric field."""


def learn(counts: Counts, config: PreprocessConfig) -> Encoding:
    """The encoding from the counts of all training rows."""
    counts.compact()
    vocabularies = {
        c.name: vocabulary(
            counts.values[c.name], config.min_count if c.min_count is None else c.min_count
        )
        for c in config.categorical
    }
    return Encoding(vocabularies, {c.name: counts.moments[c.name] for c in config.numeric})
