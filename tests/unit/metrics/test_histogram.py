"""The mergeable histogram against the exact metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrdist.metrics import evaluate_predictions
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
    assert merged.metrics() == whole.metrics()


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
