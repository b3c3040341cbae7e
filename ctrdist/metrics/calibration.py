"""Calibration: predicted probabilities against observed rates."""

# N rows, G groups of equal or nearly equal predictions, Q bins

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
    """Mean prediction / base rate: above 1 is too high; nan where there is no positive row.

    Raises:
        DataError: a label is neither 0 nor 1.
    """
    p_N = as_floats(probability_N)
    positives = int(as_labels(label_N, len(p_N)).sum())
    return float(p_N.sum() / positives) if positives else float("nan")


def calibration_table(
    rows_G: Integers, positives_G: Integers, predicted_G: Floats, bins: int = 10
) -> CalibrationTable:
    """Cuts rows that are counted by their prediction at its quantiles.

    Args:
        rows_G: (G,) rows of each group. Groups are never split, so large groups give fewer bins.
        positives_G: (G,) rows with label 1.
        predicted_G: (G,) sums of predicted probabilities, which rise from group to group.
        bins: largest number of bins; 10 gives deciles.
    """
    end_G = np.cumsum(rows_G)
    rows = int(end_G[-1]) if len(end_G) else 0
    if rows == 0:
        none = np.zeros(0, np.int64)
        return CalibrationTable(
            rows_Q=none, positives_Q=none, predicted_Q=np.zeros(0), observed_Q=np.zeros(0)
        )
    bins = min(bins, rows)
    # the group that holds the first row of each bin
    start_Q = np.unique(np.searchsorted(end_G, np.arange(bins) * rows // bins, side="right"))
    rows_Q = np.add.reduceat(rows_G, start_Q)
    positives_Q = np.add.reduceat(positives_G, start_Q)
    return CalibrationTable(
        rows_Q=rows_Q,
        positives_Q=positives_Q,
        predicted_Q=np.add.reduceat(predicted_G, start_Q) / rows_Q,
        observed_Q=positives_Q / rows_Q,
    )
