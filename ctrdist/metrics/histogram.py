"""Metrics and curves of rows that were counted by score: sums, which merge by addition."""

# N rows, Q bins

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ctrdist.metrics.calibration import CalibrationTable, calibration_table
from ctrdist.metrics.logloss import CLIP
from ctrdist.metrics.roc import RocCurve, roc_curve

_KEPT_BITS = 20
BINS = 2**_KEPT_BITS
_LARGEST = math.log((1 - CLIP) / CLIP)


class ScoreHistogram:
    """Counts positives and negatives by score, and sums losses and predictions.

    A bin holds the logits that agree in the first 20 bits of float32: sign, exponent and 11 bits of
    fraction. So bins are in the order of the scores, one part in 2,048 wide wherever the scores
    lie, and need no range to be known before.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """An empty histogram.

        Args:
            device: of its tensors, and of the rows to come.
        """
        self.counts_2Q = torch.zeros(2, BINS, dtype=torch.int64, device=device)
        """(2, Q): rows with label 0 and with label 1."""
        self.predicted_Q = torch.zeros(BINS, dtype=torch.float64, device=device)
        """(Q,) sums of predicted probabilities."""
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        """Sum of losses in nats, rows whose logit is no number."""

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
        """What is summed over ranks, in place."""
        return self.counts_2Q, self.predicted_Q, self.sums

    def calibration_table(self) -> CalibrationTable:
        """Deciles of the predictions; a bin of the histogram is never parted."""
        counts_2Q = self.counts_2Q.cpu().numpy()
        return calibration_table(counts_2Q.sum(0), counts_2Q[1], self.predicted_Q.cpu().numpy())

    def roc_curve(self) -> RocCurve:
        """The ROC curve; rows of one bin of the histogram count as ties."""
        negatives_Q, positives_Q = self.counts_2Q.cpu().numpy()
        return roc_curve(negatives_Q, positives_Q)

    def metrics(self) -> dict[str, float]:
        """The metrics of all rows that were counted.

        Returns:
            auc, auc_error (the true AUC is not farther than that from auc: pairs of one bin count
            half, whatever their order), logloss, ne, calibration, rows, positives, base_rate. A
            metric that is not defined on these rows is nan.
        """
        negative_Q, positive_Q = self.counts_2Q.cpu().double()
        loss, not_a_number = self.sums.tolist()
        predicted = float(self.predicted_Q.sum())
        positives, negatives = float(positive_Q.sum()), float(negative_Q.sum())
        rows = positives + negatives
        auc = error = math.nan
        if positives and negatives and not not_a_number:
            below_Q = negative_Q.cumsum(0) - negative_Q
            pairs = positives * negatives
            auc = float((positive_Q * (below_Q + 0.5 * negative_Q)).sum()) / pairs
            error = float((positive_Q * negative_Q).sum()) / (2 * pairs)
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
        }
