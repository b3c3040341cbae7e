"""Calibration: whether predicted probabilities are as large as the observed rates."""

# N rows, Q bins

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctrdist.metrics.arrays import Floats, Integers, Values, as_floats, as_labels


@dataclass(frozen=True, kw_only=True)
class CalibrationTable:
    """Predictions in Q bins of nearly equal size, in ascending order."""

    rows_Q: Integers
    """Rows of each bin."""
    positives_Q: Integers
    """Rows with label 1 of each bin."""
    predicted_Q: Floats
    """Mean predicted probability."""
    observed_Q: Floats
    """Observed rate: positives / rows."""


def calibration(probability_N: Values, label_N: Values) -> float:
    """Mean prediction / base rate: above 1 predicts too much; nan where there is no positive.

    Raises:
        DataError: a label is neither 0 nor 1.
    """
    p_N = as_floats(probability_N)
    positives = int(as_labels(label_N, len(p_N)).sum())
    return float(p_N.sum() / positives) if positives else float("nan")


def calibration_table(probability_N: Values, label_N: Values, bins: int = 10) -> CalibrationTable:
    """Cuts the rows at the quantiles of their prediction.

    Equal predictions are never parted, so with many ties there are fewer bins, and the order of
    rows is of no effect.

    Args:
        probability_N: (N,) predicted probabilities.
        label_N: (N,) 0 or 1.
        bins: most bins; 10 gives deciles.

    Raises:
        DataError: a label is neither 0 nor 1.
    """
    p_N = as_floats(probability_N)
    label_N = as_labels(label_N, len(p_N))
    rows = len(p_N)
    order_N = np.argsort(p_N)
    p_N, label_N = p_N[order_N], label_N[order_N]
    cut_Q = p_N[np.arange(min(bins, rows)) * rows // min(bins, rows)] if rows else p_N
    start_Q = np.unique(np.searchsorted(p_N, cut_Q, side="left"))
    rows_Q = np.diff(np.r_[start_Q, rows])
    positives_Q = np.add.reduceat(label_N, start_Q) if rows else np.zeros(0, np.int64)
    sum_Q = np.add.reduceat(p_N, start_Q) if rows else np.zeros(0)
    return CalibrationTable(
        rows_Q=rows_Q,
        positives_Q=positives_Q,
        predicted_Q=sum_Q / rows_Q,
        observed_Q=positives_Q / rows_Q,
    )
