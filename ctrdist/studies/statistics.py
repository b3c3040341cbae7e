"""Compares the variants of a study, paired by the seeds of their runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A metric over the seeds of a variant."""

    mean: float
    """nan without seeds."""
    sd: float
    """Sample standard deviation; nan for a single seed."""
    seeds: int
    """Number of seeds."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of a metric from a reference's, over the seeds that both have."""

    mean: float
    """Mean of variant − reference, seed by seed; nan without common seeds."""
    sd: float
    """Sample standard deviation of these differences; nan for a single seed."""
    p: float
    """Two-sided p of the paired t-test; nan for a single seed."""
    seeds: int
    """Number of common seeds."""


def spread(values: Mapping[int, float]) -> Spread:
    """Returns mean and standard deviation of a metric, given by seed."""
    by_seed = _series(values)
    return Spread(mean=float(by_seed.mean()), sd=float(by_seed.std()), seeds=len(by_seed))


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference:
    """Compares a metric with a reference's, both given by seed.

    Runs of one seed share the order of rows and, where shapes agree, the initial weights. The test
    is on their differences, in which the effects of a seed on both cancel.
    """
    from scipy import stats

    difference = (_series(values) - _series(reference)).dropna()  # seeds that both have
    mean, sd = float(difference.mean()), float(difference.std())
    if sd == 0:  # the test's statistic would be 0/0 or infinite
        p = 1.0 if mean == 0 else 0.0
    elif math.isnan(sd):
        p = math.nan
    else:
        p = float(stats.ttest_1samp(difference, 0.0).pvalue)
    return Difference(mean=mean, sd=sd, p=p, seeds=len(difference))


def _series(values: Mapping[int, float]) -> Any:
    import pandas as pd  # here, because `--help` of the jobs must not wait for it

    return pd.Series(values, dtype="float64")
