"""AUC against scikit-learn and against the definition."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ctrdist.errors import DataError
from ctrdist.metrics.auc import auc, auc_of_counts, gauc_sums
from ctrdist.metrics.evaluate import evaluate_predictions

ROWS = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=60
)


def gauc(score: np.ndarray, label: np.ndarray, user: np.ndarray) -> float:
    weighted, weight = gauc_sums(score, label, user)
    return weighted / weight if weight else float("nan")


def gauc_by_loop(score: np.ndarray, label: np.ndarray, user: np.ndarray) -> float:
    total, weight = 0.0, 0
    for u in np.unique(user):
        mine = user == u
        if len(np.unique(label[mine])) == 2:
            total += mine.sum() * roc_auc_score(label[mine], score[mine])
            weight += int(mine.sum())
    return total / weight if weight else float("nan")


@settings(deadline=None)
@given(ROWS)
def test_auc_and_gauc_equal_their_definitions_with_ties(rows):
    score, label, user = (np.array(column) for column in zip(*rows, strict=True))
    expected = roc_auc_score(label, score) if 0 < label.sum() < len(label) else float("nan")
    assert auc(score, label) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    expected = gauc_by_loop(score, label, user * 10**12 - 7)
    assert gauc(score, label, user * 10**12 - 7) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_auc_on_many_rows_equals_sklearn(rng):
    label = (rng.random(100_000) < 0.03).astype(np.int64)
    score = (rng.normal(size=100_000) + label).astype(np.float32).round(2)
    expected = roc_auc_score(label, score)
    assert auc(score, label) == pytest.approx(expected, abs=1e-13)
    both = evaluate_predictions(torch.from_numpy(score), torch.from_numpy(label))
    assert both["auc"] == pytest.approx(expected, abs=1e-13)


def test_auc_is_exact_where_rounded_ranks_would_not_be():
    score = np.arange(200_001)
    label = np.ones(200_001, np.int64)
    label[0] = 0
    label[-1] = 0
    assert auc(score, label) == 0.5


def test_auc_of_one_class_or_nan_scores_is_nan():
    assert np.isnan(auc(np.array([0.1, 0.2]), np.array([1, 1])))
    assert np.isnan(auc(np.zeros(0), np.zeros(0, np.int64)))
    assert np.isnan(auc(np.array([np.nan, 0.2]), np.array([0, 1])))
    assert np.isnan(gauc(np.zeros(0), np.zeros(0), np.zeros(0, np.int64)))


def test_wrong_label_is_named_with_its_row():
    with pytest.raises(DataError, match=r"row 2.*label 3"):
        evaluate_predictions(np.array([0.1, 0.2, 0.3]), np.array([0, 1, 3]))


def test_gauc_of_a_million_rows_within_a_second(rng):
    user = rng.zipf(1.3, 1_000_000).clip(max=10**9)
    label = rng.integers(0, 2, 1_000_000)
    score = rng.normal(size=1_000_000)
    times = []
    for _ in range(3):  # of this process: the machine may have other work
        start = time.process_time()
        value = gauc(score, label, user)
        times.append(time.process_time() - start)
    assert abs(value - 0.5) < 0.01
    assert min(times) < 1.0


def test_auc_of_counts_takes_weights(rng):
    score, weight = np.arange(50), rng.random(50)
    label = np.r_[np.ones(50), np.zeros(50)]
    expected = roc_auc_score(label, np.r_[score, score], sample_weight=np.r_[weight, 1 - weight])
    assert auc_of_counts(1 - weight, weight) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(auc_of_counts(np.array([3, 1]), np.array([0, 0])))


def test_auc_needs_no_torch():
    code = "import sys, ctrdist.metrics.auc; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
