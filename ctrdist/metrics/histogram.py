"""Metrics and curves of rows that are counted by score. The counts of parts add up."""

# N rows, Q bins

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ctrdist.metrics.auc import auc_of_counts
from ctrdist.metrics.calibration import CalibrationTable, calibration_table
from ctrdist.metrics.logloss import CLIP
from ctrdist.metrics.roc import RocCurve, roc_curve

_KEPT_BITS = 20
BINS = 2**_KEPT_BITS
_LARGEST = math.log((1 - CLIP) / CLIP)


class ScoreHistogram:
    """Counts positives and negatives by score, and sums losses and predictions.

    A bin holds the logits that agree in the first 20 bits of float32: sign, exponent and 11 bits of
    fraction. So the bins are in the order of the scores, their relative width is 1/2,048, and the
    range of the scores need not be known in advance. Memory does not grow with the rows, for which
    the exact AUC would have to gather and sort them.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """An empty histogram.

        Args:
            device: device of its tensors and of the rows that are added.
        """
        self.counts_2Q = torch.zeros(2, BINS, dtype=torch.int64, device=device)
        """(2, Q): rows with label 0 and with label 1."""
        self.predicted_Q = torch.zeros(BINS, dtype=torch.float64, device=device)
        """(Q,) sums of predicted probabilities."""
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        """Sum of losses in nats, number of rows whose logit is nan."""

    def add(self, logits_N: Tensor, label_N: Tensor) -> None:
        """Counts rows.

        Args:
            logits_N: (N,) log-odds.
            label_N: (N,) 0 or 1.
        """
        logits_N, label_N = logits_N.float() + 0.0, label_N.float()  # −0.0 becomes 0.0
        bits_N = logits_N.view(torch.int32)
        # negative floats count down where integers count up
        ordered_N = bits_N ^ ((bits_N >> 31) & 0x7FFFFFFF)
        key_N = (ordered_N >> (32 - _KEPT_BITS)).long() + BINS // 2
        self.counts_2Q.view(-1).scatter_add_(
            0, key_N + BINS * label_N.long(), torch.ones_like(key_N)
        )
        wide_N = logits_N.double()
        loss = functional.binary_cross_entropy_with_logits(
            wide_N.clamp(-_LARGEST, _LARGEST), label_N.double(), reduction="sum"
        )
        self.predicted_Q.scatter_add_(0, key_N, torch.sigmoid(wide_N))
        self.sums += torch.stack([loss, logits_N.isnan().sum().double()])

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns the tensors that ranks sum up, in place."""
        return self.counts_2Q, self.predicted_Q, self.sums

    def calibration_table(self) -> CalibrationTable:
        """Returns the deciles of the predictions; a bin of the histogram is never split."""
        counts_2Q = self.counts_2Q.cpu().numpy()
        return calibration_table(counts_2Q.sum(0), counts_2Q[1], self.predicted_Q.cpu().numpy())

    def roc_curve(self) -> RocCurve:
        """Returns the ROC curve; rows of one bin of the histogram count as ties."""
        negatives_Q, positives_Q = self.counts_2Q.cpu().numpy()
        return roc_curve(negatives_Q, positives_Q)

    def metrics(self) -> dict[str, float]:
        """Computes the metrics of all counted rows.

        Returns:
            auc, auc_error (a bound of |auc − exact AUC|, as pairs within one bin count half
            whatever their order), logloss, ne, calibration, rows, positives, base_rate. A
            metric that is not defined on these rows is nan. If some predictions are nan,
            nan_predictions is their number.
        """
        negative_Q, positive_Q = self.counts_2Q.cpu().double().numpy()
        loss, nans = self.sums.tolist()
        predicted = float(self.predicted_Q.sum())
        positives, negatives = float(positive_Q.sum()), float(negative_Q.sum())
        rows = positives + negatives
        auc = error = math.nan
        if positives and negatives and not nans:
            auc = auc_of_counts(negative_Q, positive_Q)
            error = float(np.dot(positive_Q, negative_Q)) / (2 * positives * negatives)
        rate = positives / rows if rows else math.nan
        entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate) if 0 < rate < 1 else 0.0
        return {
            "auc": auc,
            "auc_error": error,
            "logloss": loss / rows if rows else math.nan,
            "ne": loss / rows / entropy if entropy else math.nan,
            "calibration": predicted / positives if positives else math.nan,
            "rows": rows,
            "positives": positives,
            "base_rate": rate,
            **({"nan_predictions": nans} if nans else {}),
        }
