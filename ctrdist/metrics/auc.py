"""Exact area under the ROC curve: how often a positive is scored above a negative, ties half."""

# N rows, G groups of equal scores

from __future__ import annotations

import numpy as np

from ctrdist.metrics.arrays import Values, as_floats, as_labels


def auc(score_N: Values, label_N: Values) -> float:
    """AUC with ties, equal to the Mann-Whitney statistic over (positives × negatives).

    All counts are integers, so the result is exact up to one division (for fewer than 2³¹ rows).

    Args:
        score_N: (N,) logits or probabilities; only their order matters.
        label_N: (N,) 0 or 1.

    Returns:
        A number in [0, 1]; nan where one class is absent or a score is nan.

    Raises:
        DataError: a label is neither 0 nor 1.
    """
    score_N = as_floats(score_N)
    label_N = as_labels(label_N, len(score_N))
    positives = int(label_N.sum())
    negatives = len(label_N) - positives
    if positives == 0 or negatives == 0 or np.isnan(score_N).any():
        return float("nan")
    order_N = np.argsort(score_N)
    sorted_N = score_N[order_N]
    start_G = np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])
    positive_G = np.add.reduceat(label_N[order_N], start_G)
    negative_G = np.diff(np.r_[start_G, len(score_N)]) - positive_G
    below_G = np.cumsum(negative_G) - negative_G
    doubled = int((positive_G * (2 * below_G + negative_G)).sum())
    return doubled / (2 * positives * negatives)
