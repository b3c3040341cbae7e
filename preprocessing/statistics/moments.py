"""Mean and deviation of numbers that are counted in parts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


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
