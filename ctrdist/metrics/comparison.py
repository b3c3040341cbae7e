"""Comparison of two variants of a model, paired by the seeds of their runs."""

# S seeds

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A metric over the seeds of a variant."""

    mean: float
    sd: float
    """Sample standard deviation; nan for a single seed."""
    seeds: int
    """S."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of a metric to that of a reference, over the seeds that both have."""

    mean: float
    """Mean of variant − reference, seed by seed."""
    sd: float
    """Sample standard deviation of these differences; nan for a single seed."""
    p: float
    """Two-sided p of the paired t-test; nan for a single seed."""
    seeds: int
    """S; with 0 common seeds all other fields are nan."""


def spread(values: Mapping[int, float]) -> Spread:
    """Returns mean and standard deviation of a metric, given by seed."""
    value_S = np.array(list(values.values()), np.float64)
    return Spread(
        mean=float(value_S.mean()) if len(value_S) else math.nan,
        sd=float(value_S.std(ddof=1)) if len(value_S) > 1 else math.nan,
        seeds=len(value_S),
    )


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference:
    """Compares a metric with a reference's, both given by seed.

    Runs of one seed share the order of rows and, where shapes agree, the initial weights. The test
    uses the differences, in which the effect of the seed on both runs cancels.
    """
    from scipy import stats

    common = sorted(values.keys() & reference.keys())
    difference_S = np.array([values[s] - reference[s] for s in common], np.float64)
    seeds = len(common)
    if seeds < 2:
        mean = float(difference_S[0]) if seeds else math.nan
        return Difference(mean=mean, sd=math.nan, p=math.nan, seeds=seeds)
    sd = float(difference_S.std(ddof=1))
    mean = float(difference_S.mean())
    if sd == 0:  # the test's statistic is 0/0 or infinite
        return Difference(mean=mean, sd=0.0, p=1.0 if mean == 0 else 0.0, seeds=seeds)
    p = float(stats.ttest_1samp(difference_S, 0.0).pvalue)
    return Difference(mean=mean, sd=sd, p=p, seeds=seeds)
