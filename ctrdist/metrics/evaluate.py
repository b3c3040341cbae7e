"""All metrics of one evaluated split."""

# N rows

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctrdist.errors import DataError
from ctrdist.metrics.auc import auc, gauc_sums

CLIP = 1e-7
"""The log loss keeps probabilities this far from 0 and 1, so that one certain and wrong prediction
does not dominate the mean."""


def evaluate_predictions(
    logits_N: NDArray[Any],
    label_N: NDArray[Any],
    user_N: NDArray[np.int64] | None = None,
    weight_N: NDArray[Any] | None = None,
) -> dict[str, float]:
    """Computes the metrics of all rows of a split at once, in float64.

    Args:
        logits_N: (N,) log-odds of a click.
        label_N: (N,) 0 or 1.
        user_N: (N,) numbers that identify the users, where the data has any.
        weight_N: (N,) weights by which the rows count, where the data has any.

    Returns:
        The metrics of :func:`metrics_of_sums`, and gauc where users are given.

    Raises:
        DataError: a label is neither 0 nor 1.
    """
    logits_N, label_N = np.asarray(logits_N, np.float64), _labels(label_N)
    small_N = np.exp(-np.abs(logits_N))  # the sigmoid, without overflow
    p_N = np.where(logits_N >= 0, 1.0, small_N) / (1.0 + small_N)
    clipped_N = np.clip(p_N, CLIP, 1 - CLIP)
    loss_N = np.where(label_N == 1, np.log(clipped_N), np.log1p(-clipped_N))
    weights: tuple[float, float] | None = None
    if weight_N is not None:
        weight_N = np.asarray(weight_N, np.float64)
        weights = float(weight_N.sum()), float(weight_N @ label_N)
        loss_N, p_N = loss_N * weight_N, p_N * weight_N
    metrics = metrics_of_sums(
        auc=auc(logits_N, label_N, weight_N),  # logits: probabilities near 1 would round to ties
        loss=-float(loss_N.sum()),
        predicted=float(p_N.sum()),
        rows=float(len(label_N)),
        positives=float(label_N.sum()),
        nans=float(np.isnan(logits_N).sum()),
        weights=weights,
    )
    if user_N is not None:
        weighted, weight = gauc_sums(logits_N, label_N, np.asarray(user_N), weight_N)
        metrics["gauc"] = weighted / weight if weight else math.nan
    return metrics


def metrics_of_sums(
    *,
    auc: float,
    loss: float,
    predicted: float,
    rows: float,
    positives: float,
    nans: float,
    weights: tuple[float, float] | None = None,
) -> dict[str, float]:
    """Returns the metrics that follow from sums over rows; nan where one is not defined.

    Args:
        auc: of the rows.
        loss: sum of the log losses in nats, weighted where rows have weights.
        predicted: sum of the predicted probabilities, likewise.
        rows: number of rows.
        positives: number of rows with label 1.
        nans: number of rows whose prediction is nan, which makes all metrics of predictions nan.
        weights: sums of the weights of all rows and of those with label 1, where there are any.
            Means and rates are then weighted; rows and positives stay numbers of rows.

    Returns:
        auc; logloss; ne, the log loss over that of always predicting the base rate (He et al.,
        ADKDD 2014, Eq. 1), better below 1; calibration, the mean prediction over the base rate, too
        high above 1; rows, positives, base_rate; and nan_predictions if there are any.
    """
    total, clicks = weights or (rows, positives)
    rate, logloss = (clicks / total, loss / total) if total else (math.nan, math.nan)
    known = 0 < rate < 1
    entropy = -rate * math.log(rate) - (1 - rate) * math.log1p(-rate) if known else math.nan
    return {
        "auc": auc,
        "logloss": logloss,
        "ne": logloss / entropy,
        "calibration": predicted / clicks if clicks else math.nan,
        "rows": rows,
        "positives": positives,
        "base_rate": rate,
        **({"nan_predictions": nans} if nans else {}),
    }


def _labels(values_N: NDArray[Any]) -> NDArray[np.int64]:
    floats_N = np.asarray(values_N, np.float64)
    wrong_N = (floats_N != 0.0) & (floats_N != 1.0)
    if wrong_N.any():
        row = int(np.argmax(wrong_N))
        raise DataError(
            f"row {row} of the evaluated rows: label {floats_N[row]:g}, allowed are 0 and 1. "
            "Correct the label's column or its threshold in the data-set YAML and preprocess again."
        )
    return floats_N.astype(np.int64)
