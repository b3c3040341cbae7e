"""AUC grouped by user: how well the rows of each user are ranked (Zhu et al., KDD 2017)."""

# N rows, G groups of equal (user, score), U users

from __future__ import annotations

import numpy as np

from ctrdist.metrics.arrays import Values, as_floats, as_integers, as_labels


def gauc(score_N: Values, label_N: Values, user_N: Values) -> float:
    """Σ_u n_u·AUC_u / Σ_u n_u over the users that have both classes, n_u their number of rows.

    Args:
        score_N: (N,) logits or probabilities; only their order matters.
        label_N: (N,) 0 or 1.
        user_N: (N,) integers that identify the users.

    Returns:
        A number in [0, 1]; nan where no user has both classes or a score is nan.

    Raises:
        DataError: a label is neither 0 nor 1.
    """
    weighted, weight = gauc_sums(score_N, label_N, user_N)
    return weighted / weight if weight else float("nan")


def gauc_sums(score_N: Values, label_N: Values, user_N: Values) -> tuple[float, float]:
    """Numerator and denominator of :func:`gauc`.

    Sums over parts that share no user give those of the whole. The numerator is nan where a score
    is.
    """
    score_N = as_floats(score_N)
    label_N = as_labels(label_N, len(score_N))
    user_N = as_integers(user_N)
    assert len(user_N) == len(score_N), f"{len(user_N)} users for {len(score_N)} predictions"
    if len(score_N) == 0:
        return 0.0, 0.0
    if np.isnan(score_N).any():
        return float("nan"), float(len(score_N))
    order_N = np.lexsort((score_N, user_N))
    score_N, label_N, user_N = score_N[order_N], label_N[order_N], user_N[order_N]

    new_user_N = np.r_[True, user_N[1:] != user_N[:-1]]
    start_G = np.flatnonzero(new_user_N | np.r_[True, score_N[1:] != score_N[:-1]])
    positive_G = np.add.reduceat(label_N, start_G)
    negative_G = np.diff(np.r_[start_G, len(score_N)]) - positive_G
    below_G = np.cumsum(negative_G) - negative_G

    first_U = np.flatnonzero(new_user_N[start_G])  # each user's first group
    user_G = np.cumsum(new_user_N[start_G]) - 1
    below_G = below_G - below_G[first_U][user_G]  # negatives of the same user only
    doubled_U = np.add.reduceat(positive_G * (2 * below_G + negative_G), first_U)
    positives_U = np.add.reduceat(positive_G, first_U)
    negatives_U = np.add.reduceat(negative_G, first_U)

    both_U = (positives_U > 0) & (negatives_U > 0)
    auc_U = doubled_U[both_U] / (2 * positives_U[both_U] * negatives_U[both_U])
    rows_U = (positives_U + negatives_U)[both_U]
    return float(auc_U @ rows_U), float(rows_U.sum())
