"""Counts of numbers in bins that are fixed in advance, so that parts can be merged exactly."""

# n values, G groups of rows, m bins that hold something

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ctrdist.native.histogram import count_numbers, edges_of, squares
from preprocessing.statistics.moments import Moments


class NumberCounts:
    """Of some numbers, by group of rows: how many lie in each bin; exact to merge, in any order.

    Only the least, the greatest and the counts are independent of the order; the sum is so up to
    rounding.
    """

    def __init__(self, groups: int, bits: int, offset: float = 0.0) -> None:
        """Of none.

        Args:
            groups: G.
            bits: see :func:`bins_of`.
            offset: what is counted is the distance from it, see :func:`offset_for`.
        """
        self.bits = bits
        self.offset = offset
        self.bins = np.zeros(0, np.int64)
        """(m,) rising."""
        self.counts = np.zeros((0, groups), np.int64)
        """(m, G)."""
        self.missing = np.zeros(groups, np.int64)
        """(G,) NaN."""
        self.sum, self.least, self.greatest = 0.0, math.inf, -math.inf
        """Of the distances from the offset."""

    @property
    def count(self) -> int:
        """Numbers, without the missing ones."""
        return int(self.counts.sum())

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """(m,) edges of the bins: towards the offset, and away from it."""
        beyond = self.bins + np.where(self.bins < 0, -1, 1)
        return (
            edges_of(self.bins, self.bits) + self.offset,
            edges_of(beyond, self.bits) + self.offset,
        )

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest number; infinite where there is none."""
        return self.least + self.offset, self.greatest + self.offset

    def add(self, values: np.ndarray, group: np.ndarray | None = None) -> None:
        """Counts (n,) finite values or NaN; group: (n,) uint8, None where there is one.

        Not for several threads of a process at once.
        """
        values = np.ascontiguousarray(values, np.float64)
        if self.offset:
            values = values - self.offset
        found = count_numbers(values, group, len(self.missing), self.bits)
        self._merge(found.bins, found.counts, found.missing, found.sum, found.least, found.greatest)

    def merge(self, other: NumberCounts) -> None:
        """Adds what another has counted."""
        self._merge(other.bins, other.counts, other.missing, other.sum, other.least, other.greatest)

    def _merge(
        self,
        bins: np.ndarray,
        counts: np.ndarray,
        missing: np.ndarray,
        total: float,
        least: float,
        greatest: float,
    ) -> None:
        self._join(bins, counts)
        self.missing += missing
        self.sum += total
        self.least = min(self.least, least)
        self.greatest = max(self.greatest, greatest)

    def _join(self, bins: np.ndarray, counts: np.ndarray) -> None:
        new = np.setdiff1d(bins, self.bins, assume_unique=True)
        if len(new):
            both = np.sort(np.concatenate([self.bins, new]))
            joined = np.zeros((len(both), self.counts.shape[1]), np.int64)
            joined[np.searchsorted(both, self.bins)] = self.counts
            self.bins, self.counts = both, joined
        self.counts[np.searchsorted(self.bins, bins)] += counts


class NumberSketch:
    """Of the numbers of a column: moments, and quantiles within 0.2 %, in bounded memory.

    Parts that are merged in the same order give the same, bit for bit; the quantiles do so in any
    order. At most 2 MiB, which only numbers over all magnitudes fill; 10 KiB for counters.
    """

    BITS = 9
    """Integers up to 1,024 are exact."""

    def __init__(self) -> None:
        self.moments = Moments()
        self._counts = NumberCounts(1, self.BITS)

    @property
    def count(self) -> int:
        """Numbers, without the missing ones."""
        return self._counts.count

    @property
    def least(self) -> float:
        """Infinite where there is no number."""
        return self._counts.least

    @property
    def greatest(self) -> float:
        """Minus infinity where there is no number."""
        return self._counts.greatest

    def add(self, values: np.ndarray) -> None:
        """Takes in (n,) values; NaN is missing and left out."""
        values = np.ascontiguousarray(values, np.float64)
        part = NumberCounts(1, self.BITS)
        part.add(values)
        if not part.count:
            return
        mean = part.sum / part.count
        self.moments = self.moments + Moments(part.count, mean, squares(values, mean))
        self._counts.merge(part)

    def merge(self, other: NumberSketch) -> None:
        """Adds what another has seen, which comes after this one's."""
        self.moments = self.moments + other.moments
        self._counts.merge(other._counts)

    def quantiles(self, shares: Sequence[float]) -> np.ndarray:
        """Values below or at which these shares of the numbers lie, each within 0.2 %.

        Args:
            shares: in [0, 1].

        Returns:
            (len(shares),) float64; NaN where there is no number.
        """
        return quantiles(self._counts, self._counts.counts[:, 0], shares)

    def edges(self, parts: int) -> np.ndarray:
        """Where to cut the numbers into parts of equal size.

        Returns:
            At most parts - 1 rising float64 values, fewer where one value fills several parts;
            `np.searchsorted(edges, values, side="right")` is then the part of each value.
        """
        if not self.count:
            return np.zeros(0)
        ranks = -(-np.arange(1, parts) * self.count // parts)  # rounded up, without floats
        return np.unique(_at_ranks(self._counts, self._counts.counts[:, 0], ranks))

    def to_json(self) -> dict[str, Any]:
        """For a JSON file; :meth:`from_json` reads it without any loss."""
        counts, moments = self._counts, self.moments
        return {
            "moments": [moments.count, moments.mean, moments.squares],
            "sum": counts.sum,
            "missing": int(counts.missing[0]),
            "range": [counts.least, counts.greatest] if counts.count else None,
            "bins": counts.bins.tolist(),
            "counts": counts.counts[:, 0].tolist(),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> NumberSketch:
        """What :meth:`to_json` made."""
        sketch = cls()
        sketch.moments = Moments(*raw["moments"])
        counts = sketch._counts
        counts.sum = raw["sum"]
        counts.least, counts.greatest = raw["range"] or (math.inf, -math.inf)
        counts.missing[0] = raw["missing"]
        counts.bins = np.array(raw["bins"], np.int64)
        counts.counts = np.array(raw["counts"], np.int64)[:, None]
        return sketch


def quantiles(counts: NumberCounts, weights: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Values at these shares of the weight of the bins, (m,); NaN where there is none."""
    total = int(weights.sum())
    if not total:
        return np.full(len(shares), math.nan)
    return _at_ranks(counts, weights, np.clip(np.ceil(np.asarray(shares) * total), 1, total))


def offset_for(least: float, greatest: float) -> float:
    """What to subtract so that numbers far from 0, such as times, fall into many bins; mostly 0."""
    if math.isfinite(greatest - least) and greatest - least < max(abs(least), abs(greatest)) / 2:
        return least
    return 0.0


def _at_ranks(counts: NumberCounts, weights: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    bins = counts.bins[np.searchsorted(np.cumsum(weights), ranks)]
    return np.clip(edges_of(bins, counts.bits), counts.least, counts.greatest) + counts.offset
