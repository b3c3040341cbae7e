"""The mergeable histogram against the exact metrics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve as sklearn_roc_curve

from ctrdist.metrics.evaluate import evaluate_predictions
from ctrdist.metrics.histogram import ScoreHistogram


def draw(rows: int, seed: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2, 2, rows).astype(np.float32)
    label = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return torch.from_numpy(logits * np.float32(scale)), torch.from_numpy(label)


def counted(*parts: tuple[torch.Tensor, torch.Tensor]) -> ScoreHistogram:
    histogram = ScoreHistogram()
    for logits, label in parts:
        histogram.add(logits, label)
    return histogram


@pytest.mark.parametrize("scale", [1e-6, 1.0, 50.0])
def test_equals_the_exact_metrics_within_its_bound(scale):
    logits, label = draw(200_000, seed=1, scale=scale)
    exact = evaluate_predictions(logits, label)
    metrics = counted((logits, label)).metrics()
    assert abs(metrics["auc"] - exact["auc"]) <= metrics["auc_error"] < 2e-4
    for name in ("logloss", "ne", "calibration", "rows", "positives", "base_rate"):
        assert metrics[name] == pytest.approx(exact[name], rel=1e-9), name


def test_parts_merge_by_addition():
    a, b = draw(1000, 2), draw(3000, 3)
    whole, merged = counted(a, b), counted(a)
    for mine, other in zip(merged.tensors(), counted(b).tensors(), strict=True):
        mine += other
    assert merged.metrics() == pytest.approx(whole.metrics(), rel=1e-12)
    parts, one = merged.calibration_table(), whole.calibration_table()
    assert parts.rows_Q.tolist() == one.rows_Q.tolist()
    np.testing.assert_allclose(parts.predicted_Q, one.predicted_Q, rtol=1e-12)


def deciles_of_rows(logits: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """By sorting the rows: ten bins of equal size, but rows of equal logits are in one bin."""
    order = np.argsort(logits, kind="stable")
    logits, label = logits[order].astype(np.float64), label[order].astype(np.float64)
    first = [int(np.argmax(logits == logits[i * len(logits) // 10])) for i in range(10)]
    bins = np.split(np.arange(len(logits)), sorted(set(first))[1:])
    p = 1 / (1 + np.exp(-logits))
    return {
        "rows": np.array([len(rows) for rows in bins]),
        "positives": np.array([label[rows].sum() for rows in bins]),
        "predicted": np.array([p[rows].mean() for rows in bins]),
        "observed": np.array([label[rows].mean() for rows in bins]),
    }


@pytest.mark.parametrize("digits", [0, 1, 2])
def test_deciles_are_those_of_the_sorted_rows_where_bins_hold_equal_logits(digits):
    logits, label = draw(10_007, seed=5)
    logits = (logits * 4**digits).round() / 4**digits  # few binary digits: no bin holds two
    table = counted((logits, label)).calibration_table()
    exact = deciles_of_rows(logits.numpy(), label.numpy())
    assert table.rows_Q.tolist() == exact["rows"].tolist()
    assert table.positives_Q.tolist() == exact["positives"].tolist()
    np.testing.assert_allclose(table.predicted_Q, exact["predicted"], rtol=1e-12)
    np.testing.assert_allclose(table.observed_Q, exact["observed"], rtol=1e-12)
    assert len(table.rows_Q) == 10 or digits == 0


def test_deciles_of_any_rows_are_nearly_those_of_the_sorted_rows():
    logits, label = draw(200_003, seed=6)
    table = counted((logits, label)).calibration_table()
    exact = deciles_of_rows(logits.numpy(), label.numpy())
    assert table.rows_Q.sum() == 200_003 and table.positives_Q.sum() == label.sum()
    assert np.abs(table.rows_Q - exact["rows"]).max() < 200  # of 20,000: at most a bin's rows
    np.testing.assert_allclose(table.predicted_Q, exact["predicted"], rtol=2e-3)
    np.testing.assert_allclose(table.observed_Q, exact["observed"], atol=2e-3)


def test_few_rows_have_as_many_bins_as_rows_and_none_has_none():
    table = counted((torch.tensor([0.0, 1.0, -1.0]), torch.tensor([0.0, 1.0, 0.0])))
    assert table.calibration_table().rows_Q.tolist() == [1, 1, 1]
    assert table.calibration_table().positives_Q.tolist() == [0, 0, 1]
    assert ScoreHistogram().calibration_table().rows_Q.tolist() == []


def test_the_roc_curve_lies_on_that_of_the_sorted_rows():
    logits, label = draw(50_000, seed=7)
    curve = counted((logits, label)).roc_curve()
    false, true, _ = sklearn_roc_curve(label, logits, drop_intermediate=False)
    assert (curve.false_P[0], curve.true_P[0]) == (0, 0)
    assert (curve.false_P[-1], curve.true_P[-1]) == (1, 1)
    assert len(curve.false_P) <= 1000
    along = np.interp(curve.false_P + curve.true_P, false + true, true)  # the curve has steps
    assert np.abs(along - curve.true_P).max() < 2e-4


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=50))
def test_bins_are_in_the_order_of_the_scores(values):
    keys = []
    for value in sorted(values):
        histogram = counted((torch.tensor([value]), torch.tensor([1.0])))
        keys.append(int(histogram.counts_2Q[1].argmax()))
    assert keys == sorted(keys)


def test_what_is_not_defined_is_nan():
    logits, label = draw(10, 4)
    assert math.isnan(counted((logits, torch.zeros(10))).metrics()["auc"])
    assert math.isnan(counted((logits * math.nan, label)).metrics()["auc"])
    assert math.isnan(ScoreHistogram().metrics()["logloss"])
