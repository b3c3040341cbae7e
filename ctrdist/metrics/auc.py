"""Area under the ROC curve: the share of (positive, negative) pairs in order, ties counting half.

All AUCs of the product come from :func:`auc_of_counts` or from the same arithmetic by user. It is
our own because scikit-learn has neither counts nor users, and takes longer for the same figure.
"""

# N rows, G groups of equal scores (of one user), U users

from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[Any]
"""(G,) numbers of rows; integers or float64, which may be weights."""


def auc_of_counts(negatives_G: Counts, positives_G: Counts) -> float:
    """Returns the AUC of rows that are counted by score; nan where one class is absent.

    Args:
        negatives_G: (G,) rows with label 0, by rising score. Exact up to one division for integers
            and fewer than 2³¹ rows.
        positives_G: (G,) rows with label 1.
    """
    negatives, positives = negatives_G.sum().item(), positives_G.sum().item()
    if not negatives or not positives:
        return float("nan")
    return _doubled_wins(negatives_G, positives_G).sum().item() / (2 * negatives * positives)


def auc(
    score_N: NDArray[Any], label_N: NDArray[np.int64], weight_N: NDArray[np.float64] | None = None
) -> float:
    """Returns the exact AUC of (N,) scores, of which only the order matters, and labels 0 or 1.

    A pair counts by the product of its rows' weights, where there are weights. It is nan where one
    class is absent or a score is nan.
    """
    if len(score_N) == 0 or np.isnan(score_N).any():
        return float("nan")
    order_N = np.argsort(score_N)
    return auc_of_counts(*_counts(label_N, order_N, _changes(score_N[order_N]), weight_N))


def gauc_sums(
    score_N: NDArray[Any],
    label_N: NDArray[np.int64],
    user_N: NDArray[np.int64],
    weight_N: NDArray[np.float64] | None = None,
) -> tuple[float, float]:
    """Σ_u n_u·AUC_u and Σ_u n_u over users with both classes, n_u their rows.

    The first over the second is gAUC (Zhu et al., KDD 2017). Sums over parts that share no user add
    up to those of the whole. The first is nan where a score is nan.

    Args:
        score_N: (N,) logits or probabilities; only their order matters.
        label_N: (N,) 0 or 1.
        user_N: (N,) numbers that identify the users.
        weight_N: (N,) weights of the rows; then n_u are sums of weights.
    """
    if len(score_N) == 0:
        return 0.0, 0.0
    if np.isnan(score_N).any():
        return float("nan"), float(len(score_N))
    order_N = np.lexsort((score_N, user_N))
    new_user_N = _changes(user_N[order_N])
    new_group_N = new_user_N | _changes(score_N[order_N])
    negative_G, positive_G = _counts(label_N, order_N, new_group_N, weight_N)
    first_U = np.flatnonzero(new_user_N[new_group_N])  # each user's first group
    positive_U = np.add.reduceat(positive_G, first_U)
    negative_U = np.add.reduceat(negative_G, first_U)
    # A positive row also wins against the negatives of the users before: these are taken off.
    before_U = np.cumsum(negative_U) - negative_U
    doubled_U = np.add.reduceat(_doubled_wins(negative_G, positive_G), first_U)
    doubled_U = doubled_U - 2 * before_U * positive_U
    both_U = (positive_U > 0) & (negative_U > 0)
    auc_U = doubled_U[both_U] / (2 * positive_U[both_U] * negative_U[both_U])
    rows_U = (positive_U + negative_U)[both_U]
    return float(auc_U @ rows_U), float(rows_U.sum())


def _doubled_wins(negative_G: Counts, positive_G: Counts) -> Counts:
    """(G,) twice the pairs that the positive rows of a group win; a tie is half a win."""
    below_G = np.cumsum(negative_G) - negative_G
    return positive_G * (2 * below_G + negative_G)


def _changes(sorted_N: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) whether a value differs from the one before it; True for the first."""
    return np.r_[True, sorted_N[1:] != sorted_N[:-1]]


def _counts(
    label_N: Counts,
    order_N: NDArray[np.int64],
    new_group_N: NDArray[np.bool_],
    weight_N: NDArray[np.float64] | None,
) -> tuple[Counts, Counts]:
    """(G,) negatives and (G,) positives of each group of the ordered rows, or their weights."""
    label_N = label_N[order_N]
    start_G = np.flatnonzero(new_group_N)
    if weight_N is not None:
        weight_N = weight_N[order_N]
        parts = ((1 - label_N) * weight_N, label_N * weight_N)
        negative_G, positive_G = (np.add.reduceat(part_N, start_G) for part_N in parts)
        return negative_G, positive_G
    positive_G = np.add.reduceat(label_N, start_G)
    return np.diff(np.r_[start_G, len(label_N)]) - positive_G, positive_G
