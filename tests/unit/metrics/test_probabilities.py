"""Logloss, normalised entropy, calibration and all together."""

import numpy as np
import pytest
import torch
from scipy.special import logit
from sklearn.metrics import log_loss, roc_auc_score

from ctrdist.metrics.evaluate import evaluate_predictions
from ctrdist.metrics.histogram import ScoreHistogram


def measured(name: str, p: list[float] | np.ndarray, label: list[int] | np.ndarray) -> float:
    with np.errstate(divide="ignore"):  # the log-odds of 0 and 1 are infinite
        return evaluate_predictions(logit(np.asarray(p)), np.asarray(label))[name]


def test_logloss_equals_sklearn(rng):
    p, y = rng.random(1000), rng.integers(0, 2, 1000)
    assert measured("logloss", p, y) == pytest.approx(log_loss(y, p), rel=1e-12)


def test_logloss_of_certain_and_wrong_is_bounded_by_the_clip():
    assert measured("logloss", [0.0], [1]) == pytest.approx(-np.log(1e-7))
    assert measured("logloss", [1.0], [0]) == pytest.approx(-np.log(1e-7))
    assert np.isnan(measured("logloss", [], []))


def test_normalised_entropy_of_the_base_rate_is_one():
    y = np.array([1, 0, 0, 0, 0])
    assert measured("ne", np.full(5, 0.2), y) == pytest.approx(1.0)
    assert np.isnan(measured("ne", [0.2, 0.3], [0, 0]))


def test_calibration_is_the_ratio_of_means():
    assert measured("calibration", [0.2, 0.4, 0.6], [0, 0, 1]) == pytest.approx(1.2)
    assert np.isnan(measured("calibration", [0.2, 0.3], [0, 0]))


def test_large_log_odds_neither_overflow_nor_lose_small_probabilities():
    with np.errstate(all="raise", under="ignore"):
        metrics = evaluate_predictions(np.array([-800.0, -40.0, 800.0]), np.array([0, 0, 1]))
    assert metrics["calibration"] == pytest.approx(1.0)
    assert metrics["logloss"] == pytest.approx(1e-7, rel=1e-6)


def test_evaluate_predictions_of_tensors(rng):
    logits = torch.from_numpy(rng.normal(size=500)).float()
    label = torch.from_numpy(rng.integers(0, 2, 500)).float()
    user = torch.from_numpy(rng.integers(0, 20, 500))
    metrics = evaluate_predictions(logits, label, user)
    assert set(metrics) == {
        "auc",
        "logloss",
        "ne",
        "calibration",
        "rows",
        "positives",
        "base_rate",
        "gauc",
    }
    assert all(type(value) is float for value in metrics.values())
    assert metrics["auc"] == pytest.approx(roc_auc_score(label, logits), abs=1e-12)
    assert metrics["logloss"] == pytest.approx(
        log_loss(label, torch.sigmoid(logits.double())), rel=1e-12
    )
    assert metrics["base_rate"] == pytest.approx(float(label.mean()))
    assert "gauc" not in evaluate_predictions(logits, label)


def test_saturated_logits_keep_their_order_in_auc():
    metrics = evaluate_predictions(np.array([50.0, 60.0]), np.array([0, 1]))
    assert metrics["auc"] == 1.0


def test_predictions_that_are_nan_are_counted_and_leave_no_metric_of_predictions():
    logits, label = (
        torch.tensor([0.5, float("nan"), -1.0, float("nan")]),
        torch.tensor([1, 0, 0, 1]),
    )
    histogram = ScoreHistogram()
    histogram.add(logits, label)
    exact = evaluate_predictions(logits, label, torch.tensor([1, 1, 2, 2]))
    for metrics in (exact, histogram.metrics()):
        assert metrics["nan_predictions"] == 2 and metrics["rows"] == 4
        for name in ("auc", "logloss", "ne", "calibration"):
            assert np.isnan(metrics[name]), name
    assert np.isnan(exact["gauc"])
    assert "nan_predictions" not in evaluate_predictions(torch.zeros(4), label)
