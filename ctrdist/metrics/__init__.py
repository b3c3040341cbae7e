"""Metrics of click-through predictions, and the digest that proves which rows were seen."""

from ctrdist.metrics.auc import auc
from ctrdist.metrics.calibration import CalibrationTable, calibration
from ctrdist.metrics.evaluate import evaluate_predictions
from ctrdist.metrics.gauc import gauc, gauc_sums
from ctrdist.metrics.histogram import ScoreHistogram
from ctrdist.metrics.information_abundance import gram_matrix, information_abundance
from ctrdist.metrics.logloss import logloss, normalised_entropy
from ctrdist.metrics.roc import RocCurve
from ctrdist.metrics.rows import digest, digest_of_range

__all__ = [
    "CalibrationTable",
    "RocCurve",
    "ScoreHistogram",
    "auc",
    "calibration",
    "digest",
    "digest_of_range",
    "evaluate_predictions",
    "gauc",
    "gauc_sums",
    "gram_matrix",
    "information_abundance",
    "logloss",
    "normalised_entropy",
]
