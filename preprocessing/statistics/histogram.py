"""Counts of numbers in fixed bins, so that counts of parts can be merged exactly."""

# n values, G groups of rows, m bins that hold something

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctrdist.native.histogram import count_numbers, edges_of


@dataclass
class NumberCounts:
    """Counts of numbers by bin and group of rows. Parts are merged exactly, in any order.

    The sum alone depends on the order, by its rounding.
    """

    bits: int
    """See :func:`ctrdist.native.histogram.bins_of`."""
    bins: np.ndarray
    """(m,) int64, rising."""
    counts: np.ndarray
    """(m, G) int64."""
    missing: np.ndarray
    """(G,) int64 rows with NaN."""
    sum: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf

    @classmethod
    def empty(cls, groups: int, bits: int) -> NumberCounts:
        """Counts of no numbers, for G groups of rows."""
        none = np.zeros(0, np.int64)
        return cls(bits, none, np.zeros((0, groups), np.int64), np.zeros(groups, np.int64))

    @property
    def count(self) -> int:
        """Numbers, without the missing ones."""
        return int(self.counts.sum())

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """(m,) edges of the bins: towards zero, and away from it."""
        beyond = self.bins + np.where(self.bins < 0, -1, 1)
        return edges_of(self.bins, self.bits), edges_of(beyond, self.bits)

    def add(self, values: np.ndarray, group: np.ndarray | None = None) -> None:
        """Counts (n,) values, finite or NaN, of these groups, (n,) uint8; None: there is one group.

        Only one thread of a process may do so at a time.
        """
        values = np.ascontiguousarray(values, np.float64)
        found = count_numbers(values, group, len(self.missing), self.bits)
        self.merge(NumberCounts(self.bits, *found))

    def merge(self, other: NumberCounts) -> None:
        """Adds the counts of other numbers."""
        new = np.setdiff1d(other.bins, self.bins, assume_unique=True)
        if len(new):
            both = np.sort(np.concatenate([self.bins, new]))
            joined = np.zeros((len(both), self.counts.shape[1]), np.int64)
            joined[np.searchsorted(both, self.bins)] = self.counts
            self.bins, self.counts = both, joined
        self.counts[np.searchsorted(self.bins, other.bins)] += other.counts
        self.missing += other.missing
        self.sum += other.sum
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)


def quantiles(counts: NumberCounts, weights: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Quantiles of binned numbers, each within the width of a bin; NaN where the weight is 0.

    `weights`, (m,) int64, are those of the bins; `shares`, in [0, 1], are of the whole weight.
    """
    total = int(weights.sum())
    if not total:
        return np.full(len(shares), math.nan)
    ranks = np.clip(np.ceil(np.asarray(shares) * total), 1, total)
    bins = counts.bins[np.searchsorted(np.cumsum(weights), ranks)]
    return np.clip(edges_of(bins, counts.bits), counts.least, counts.greatest)
