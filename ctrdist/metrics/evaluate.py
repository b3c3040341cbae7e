"""All metrics of one evaluated split."""

# N rows

from __future__ import annotations

import numpy as np

from ctrdist.metrics.arrays import Values, as_floats, as_labels, sigmoid
from ctrdist.metrics.auc import auc, gauc
from ctrdist.metrics.calibration import calibration
from ctrdist.metrics.logloss import logloss, normalised_entropy


def evaluate_predictions(
    logits_N: Values, label_N: Values, user_N: Values | None = None
) -> dict[str, float]:
    """Computes the metrics of all rows of a split at once, in float64.

    Args:
        logits_N: (N,) log-odds of a click.
        label_N: (N,) 0 or 1.
        user_N: (N,) integers, where the data has a user.

    Returns:
        auc, logloss, ne, calibration, rows, positives, base_rate, and gauc where users are given.
        A metric that is not defined on these rows is nan. If some predictions are nan,
        nan_predictions is their number, and all metrics of predictions are nan.

    Raises:
        DataError: a label is neither 0 nor 1.
    """
    logits_N = as_floats(logits_N)
    label_N = as_labels(label_N, len(logits_N))
    p_N = sigmoid(logits_N)
    rows, positives = len(label_N), int(label_N.sum())
    metrics = {
        # from logits: probabilities near 1 would round to ties
        "auc": auc(logits_N, label_N),
        "logloss": logloss(p_N, label_N),
        "ne": normalised_entropy(p_N, label_N),
        "calibration": calibration(p_N, label_N),
        "rows": float(rows),
        "positives": float(positives),
        "base_rate": positives / rows if rows else float("nan"),
    }
    if user_N is not None:
        metrics["gauc"] = gauc(logits_N, label_N, user_N)
    if nans := int(np.isnan(logits_N).sum()):
        metrics["nan_predictions"] = float(nans)
    return metrics
