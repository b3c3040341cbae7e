"""Compares the variants of a study, paired by the seeds of their runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def spread(values: Mapping[int, float]) -> dict[str, float]:
    """A metric given by seed: its mean, sd (sample standard deviation) and number of seeds.

    The mean is nan without seeds, and the sd with fewer than two.
    """
    by_seed = _series(values)
    return {"mean": float(by_seed.mean()), "sd": float(by_seed.std()), "seeds": len(by_seed)}


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float]
) -> dict[str, float]:
    """The spread of a metric minus a reference's over common seeds, with p of a paired t-test.

    Runs of one seed share the order of rows and, where shapes agree, the initial weights. The test
    is on their differences, in which the effects of a seed on both cancel. It is two-sided; p is
    nan with fewer than two seeds.
    """
    from scipy import stats

    difference = (_series(values) - _series(reference)).dropna()  # seeds that both have
    found = spread(difference)
    if found["sd"] == 0:  # the test's statistic would be 0/0 or infinite
        p = 1.0 if found["mean"] == 0 else 0.0
    elif math.isnan(found["sd"]):
        p = math.nan
    else:
        p = float(stats.ttest_1samp(difference, 0.0).pvalue)
    return {**found, "p": p}


def _series(values: Mapping[int, float]) -> Any:
    import pandas as pd  # here, because `--help` of the jobs must not wait for it

    return pd.Series(values, dtype="float64")
