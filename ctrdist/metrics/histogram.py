"""Metrics and curves of rows that are counted by score. The counts of parts add up."""

# N rows, Q bins of scores (in a calibration table: deciles of the rows), P points of a curve

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ctrdist.metrics.auc import auc_of_counts
from ctrdist.metrics.evaluate import CLIP, metrics_of_sums

_KEPT_BITS = 20
BINS = 2**_KEPT_BITS
_LARGEST = math.log((1 - CLIP) / CLIP)
_POINTS = 1000
"""Points of a ROC curve."""


@dataclass(frozen=True, kw_only=True)
class CalibrationTable:
    """Predictions in deciles, in ascending order; a bin of equal scores is never split."""

    rows_Q: NDArray[Any]
    """Rows of each decile, or their weights."""
    positives_Q: NDArray[Any]
    """Rows with label 1 of each decile, or their weights."""
    predicted_Q: NDArray[np.float64]
    """Mean predicted probability."""

    @property
    def observed_Q(self) -> NDArray[np.float64]:
        """Observed rate."""
        return self.positives_Q / self.rows_Q


@dataclass(frozen=True, kw_only=True)
class RocCurve:
    """A curve from (0, 0), where no row counts as positive, to (1, 1)."""

    false_P: NDArray[np.float64]
    """False positive rate: share of the negatives that count as positive."""
    true_P: NDArray[np.float64]
    """True positive rate: share of the positives that count as positive."""


class ScoreHistogram:
    """Counts positives and negatives by score, and sums losses and predictions.

    A bin holds the logits that agree in the first 20 bits of float32: sign, exponent and 11 bits of
    fraction. So the bins are in the order of the scores, their relative width is 1/2,048, and the
    range of the scores need not be known in advance. Memory does not grow with the rows, for which
    the exact AUC would have to gather and sort them.
    """

    def __init__(self, device: torch.device | str = "cpu", *, weighted: bool = False) -> None:
        """An empty histogram on the device of the rows that will be added, with weights or none."""
        kind = torch.float64 if weighted else torch.int64
        self.counts_2Q = torch.zeros(2, BINS, dtype=kind, device=device)
        """(2, Q): rows with label 0 and with label 1, or their weights."""
        self.rows = torch.zeros(2, dtype=torch.float64, device=device) if weighted else None
        """Numbers of these rows, where they have weights."""
        self.predicted_Q = torch.zeros(BINS, dtype=torch.float64, device=device)
        """(Q,) sums of predicted probabilities."""
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        """Sum of losses in nats, number of rows whose logit is nan."""

    def add(self, logits_N: Tensor, label_N: Tensor, weight_N: Tensor | None = None) -> None:
        """Counts rows by their (N,) log-odds, (N,) labels, 0 or 1, and (N,) weights if any."""
        logits_N, label_N = logits_N.float() + 0.0, label_N.float()  # −0.0 becomes 0.0
        bits_N = logits_N.view(torch.int32)
        # negative floats count down where integers count up
        ordered_N = bits_N ^ ((bits_N >> 31) & 0x7FFFFFFF)
        key_N = (ordered_N >> (32 - _KEPT_BITS)).long() + BINS // 2
        each_N = torch.ones_like(key_N) if weight_N is None else weight_N.double()
        self.counts_2Q.view(-1).scatter_add_(0, key_N + BINS * label_N.long(), each_N)
        wide_N, weights_N = logits_N.double(), None if weight_N is None else each_N
        loss = functional.binary_cross_entropy_with_logits(
            wide_N.clamp(-_LARGEST, _LARGEST), label_N.double(), weights_N, reduction="sum"
        )
        predicted_N = torch.sigmoid(wide_N)
        if weights_N is not None:
            predicted_N = predicted_N * weights_N
        self.predicted_Q.scatter_add_(0, key_N, predicted_N)
        if self.rows is not None:
            self.rows += torch.stack([(1 - label_N).sum(), label_N.sum()]).double()
        self.sums += torch.stack([loss, logits_N.isnan().sum().double()])

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns the tensors that ranks sum up, in place."""
        own = () if self.rows is None else (self.rows,)
        return self.counts_2Q, self.predicted_Q, self.sums, *own

    def calibration_table(self) -> CalibrationTable:
        """Cuts the rows at the deciles of their predictions; few scores give fewer parts."""
        counts_2Q = self.counts_2Q.cpu().numpy()
        end_Q = np.cumsum(counts_2Q.sum(0))
        total = end_Q[-1].item()
        parts = min(10, total) if self.rows is None else 10 * (total > 0)
        # the bin that holds the first row of each decile
        first_D = np.arange(parts) * total / max(1, parts)
        start_D = np.unique(np.searchsorted(end_Q, first_D, side="right"))
        rows_Q = np.add.reduceat(counts_2Q.sum(0), start_D)
        predicted_Q = np.add.reduceat(self.predicted_Q.cpu().numpy(), start_D)
        return CalibrationTable(
            rows_Q=rows_Q,
            positives_Q=np.add.reduceat(counts_2Q[1], start_D),
            predicted_Q=predicted_Q / rows_Q,
        )

    def roc_curve(self) -> RocCurve:
        """Returns the ROC curve, thinned out to a thousand points; rows of one bin are ties."""
        falling_2Q = self.counts_2Q.cpu().numpy()[:, ::-1]
        false_Q, true_Q = np.pad(np.cumsum(falling_2Q, axis=1), ((0, 0), (1, 0)))
        false_Q, true_Q = false_Q / max(false_Q[-1], 1), true_Q / max(true_Q[-1], 1)
        # evenly spaced along the curve, so that its steep and its flat end both keep points
        along_Q = false_Q + true_Q
        wanted_P = np.linspace(0, along_Q[-1], _POINTS)
        keep_P = np.unique(np.searchsorted(along_Q, wanted_P).clip(max=len(along_Q) - 1))
        return RocCurve(false_P=false_Q[keep_P], true_P=true_Q[keep_P])

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of :func:`metrics_of_sums`, and auc_error.

        auc_error is a bound of |auc − exact AUC|, as pairs within one bin count half whatever their
        order.
        """
        negative_Q, positive_Q = self.counts_2Q.cpu().double().numpy()
        loss, nans = self.sums.tolist()
        positives, negatives = float(positive_Q.sum()), float(negative_Q.sum())
        weights: tuple[float, float] | None = None
        auc = error = math.nan
        if positives and negatives and not nans:
            auc = auc_of_counts(negative_Q, positive_Q)
            error = float(np.dot(positive_Q, negative_Q)) / (2 * positives * negatives)
        if self.rows is not None:
            weights = positives + negatives, positives
            negatives, positives = self.rows.tolist()
        metrics = metrics_of_sums(
            auc=auc,
            loss=loss,
            predicted=float(self.predicted_Q.sum()),
            rows=positives + negatives,
            positives=positives,
            nans=nans,
            weights=weights,
        )
        return {**metrics, "auc_error": error}
