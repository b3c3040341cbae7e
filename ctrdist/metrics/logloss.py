"""Logloss, and logloss relative to that of always predicting the base rate."""

# N rows

from __future__ import annotations

import numpy as np

from ctrdist.metrics.arrays import Values, as_floats, as_labels

CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1, so that one certain and wrong prediction does not
dominate the mean."""


def logloss(probability_N: Values, label_N: Values) -> float:
    """Mean of -y·ln(p) - (1-y)·ln(1-p) in nats, p clipped to [CLIP, 1 - CLIP]; nan without rows.

    Raises:
        DataError: a label is neither 0 nor 1.
    """
    p_N = np.clip(as_floats(probability_N), CLIP, 1 - CLIP)
    label_N = as_labels(label_N, len(p_N))
    if len(p_N) == 0:
        return float("nan")
    return float(-np.where(label_N == 1, np.log(p_N), np.log1p(-p_N)).mean())


def normalised_entropy(probability_N: Values, label_N: Values) -> float:
    """Logloss divided by the entropy of the base rate of these rows (He et al., ADKDD 2014, Eq. 1).

    Below 1 is better than always predicting the base rate; nan where one class is absent.

    Raises:
        DataError: a label is neither 0 nor 1.
    """
    loss = logloss(probability_N, label_N)
    rate = float(as_floats(label_N).mean()) if len(label_N) else float("nan")
    if not 0.0 < rate < 1.0:
        return float("nan")
    return float(loss / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))
