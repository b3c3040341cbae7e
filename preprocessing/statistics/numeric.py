"""Statistics of the training rows' numbers, to which the numeric transforms are fitted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctrdist.features.transforms import before_standardising
from preprocessing.config.settings import PreprocessConfig
from preprocessing.statistics.histogram import NumberCounts, quantiles

QUANTILE_BITS = 9
"""Quantiles are exact to 0.2 %, and for integers up to 1,024."""
RESIDUE = 1e-12
"""Share of the mean up to which a deviation is the rounding of doubles, about 1e-16 of each."""


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared deviations of some values."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """The moments of values without NaN."""
        if not len(values):
            return cls()
        mean = float(values.mean())
        return cls(len(values), mean, float(np.square(values - mean).sum()))

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of values (Chan, Golub, LeVeque 1979)."""
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
        """Population standard deviation; 1 where all values are equal, as it is a divisor.

        They are where it is no more than the rounding of the mean, which a sum of equal values has.
        """
        found = math.sqrt(self.squares / self.count) if self.count else 0.0
        return found if found > RESIDUE * abs(self.mean) else 1.0


@dataclass
class NumberStatistics:
    """Statistics of some rows' numbers. Parts are merged in the order of the log."""

    moments: dict[str, Moments]
    """By column that is standardised: of its values before they are standardised."""
    counts: dict[str, NumberCounts]
    """By column that needs its range or quantiles."""

    @classmethod
    def empty(cls, config: PreprocessConfig) -> NumberStatistics:
        """Statistics of no rows."""
        found = cls({}, {})
        for column in config.measured:
            name, kind = column.name, config.numeric_of(column)
            if kind != "bucket" and column.transform.endswith("standardise"):
                found.moments[name] = Moments()
            ranged = kind != "bucket" and column.transform == "min_max"
            if ranged or (kind != "number" and column.buckets == "quantile"):
                found.counts[name] = NumberCounts.empty(1, QUANTILE_BITS)
        return found

    def add(
        self, numbers: Mapping[str, np.ndarray], train: np.ndarray | None, config: PreprocessConfig
    ) -> None:
        """Adds a block of rows; `train`, (n,) bool, selects some of them, None all."""
        for column in config.measured:
            values = numbers[column.name]
            if train is not None:
                values = values[train]
            values = values[~np.isnan(values)]
            if column.name in self.counts:
                self.counts[column.name].add(values)
            if column.name in self.moments:
                self.moments[column.name] += Moments.of(before_standardising(values, column))

    def merge(self, other: NumberStatistics) -> None:
        """Adds the statistics of later rows."""
        for name, moments in other.moments.items():
            self.moments[name] += moments
        for name, counts in other.counts.items():
            self.counts[name].merge(counts)

    def fit(self, config: PreprocessConfig) -> dict[str, dict[str, Any]]:
        """The fitted parameters of each column that has any, of JSON's types."""
        fitted: dict[str, dict[str, Any]] = {c.name: {} for c in config.measured}
        for name, moments in self.moments.items():
            fitted[name] |= {"mean": moments.mean, "deviation": moments.deviation}
        for column in config.measured:
            counts = self.counts.get(column.name)
            if counts is None:
                continue
            if column.transform == "min_max":
                fitted[column.name] |= {
                    "low": counts.least if counts.count else 0.0,
                    "high": counts.greatest if counts.count else 1.0,
                }
            if column.buckets == "quantile":
                inner = (np.arange(1, column.num_quantiles) / column.num_quantiles).tolist()
                edges = np.unique(quantiles(counts, counts.counts[:, 0], inner))
                fitted[column.name]["edges"] = edges.tolist() if counts.count else []
        return {name: parameters for name, parameters in fitted.items() if parameters}
