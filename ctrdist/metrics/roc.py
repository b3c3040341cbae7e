"""The ROC curve of rows that are counted by score."""

# G groups of equal or nearly equal scores, P points

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctrdist.metrics.arrays import Floats, Integers

_POINTS = 1000


@dataclass(frozen=True, kw_only=True)
class RocCurve:
    """A curve from (0, 0), where no row counts as positive, to (1, 1)."""

    false_P: Floats
    """False positive rate: share of the negatives that count as positive."""
    true_P: Floats
    """True positive rate: share of the positives that count as positive."""


def roc_curve(negatives_G: Integers, positives_G: Integers) -> RocCurve:
    """Returns the curve, thinned out to a thousand points.

    Args:
        negatives_G: (G,) rows with label 0, by rising score.
        positives_G: (G,) rows with label 1.
    """
    false_G = np.r_[0, np.cumsum(negatives_G[::-1])]
    true_G = np.r_[0, np.cumsum(positives_G[::-1])]
    false_G, true_G = false_G / max(false_G[-1], 1), true_G / max(true_G[-1], 1)
    # evenly spaced along the curve, so that its steep and its flat end both keep points
    along_G = false_G + true_G
    wanted_P = np.linspace(0, along_G[-1], _POINTS)
    keep_P = np.unique(np.searchsorted(along_G, wanted_P).clip(max=len(along_G) - 1))
    return RocCurve(false_P=false_G[keep_P], true_P=true_G[keep_P])
