"""A row with the weight n counts like n rows, in every metric."""

import numpy as np
import pytest
import torch

from ctrdist.metrics.evaluate import evaluate_predictions
from ctrdist.metrics.histogram import ScoreHistogram

NAMES = ("auc", "logloss", "ne", "calibration", "base_rate")


@pytest.fixture
def rows(rng) -> dict[str, np.ndarray]:
    """Rows with ties, some of the weight 0."""
    n = 3000
    logits = rng.normal(-1, 1, n).round(1).astype(np.float32)
    return {
        "logits": logits,
        "label": (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(np.float32),
        "user": rng.integers(0, 25, n),
        "weight": rng.integers(0, 4, n).astype(np.float32),
    }


def repeated(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    times = rows["weight"].astype(int)
    return {name: np.repeat(values, times) for name, values in rows.items() if name != "weight"}


def test_exact_metrics(rows):
    expected = evaluate_predictions(**{f"{k}_N": v for k, v in repeated(rows).items()})
    found = evaluate_predictions(**{f"{k}_N": v for k, v in rows.items()})
    for name in (*NAMES, "gauc"):
        assert found[name] == pytest.approx(expected[name], rel=1e-12), name
    assert (found["rows"], found["positives"]) == (len(rows["label"]), rows["label"].sum())


def counted(rows: dict[str, np.ndarray], *names: str) -> ScoreHistogram:
    histogram = ScoreHistogram(weighted="weight" in names)
    histogram.add(*(torch.from_numpy(rows[name]) for name in ("logits", "label", *names)))
    return histogram


def test_histograms_their_curves_and_their_sums(rows):
    weighted, plain = counted(rows, "weight"), counted(repeated(rows))
    found, expected = weighted.metrics(), plain.metrics()
    for name in (*NAMES, "auc_error"):
        assert found[name] == pytest.approx(expected[name], rel=1e-12), name
    assert (found["rows"], found["positives"]) == (len(rows["label"]), rows["label"].sum())
    for one, other in (
        (weighted.calibration_table(), plain.calibration_table()),
        (weighted.roc_curve(), plain.roc_curve()),
    ):
        for name, values in vars(one).items():
            np.testing.assert_allclose(values, vars(other)[name], err_msg=name)
    half = {name: values[:1000] for name, values in rows.items()}
    rest = {name: values[1000:] for name, values in rows.items()}
    merged = counted(half, "weight")
    for mine, other in zip(merged.tensors(), counted(rest, "weight").tensors(), strict=True):
        mine += other
    assert merged.metrics() == pytest.approx(found)


def test_rows_without_any_weight_have_no_metrics(rows):
    rows["weight"][:] = 0
    found = evaluate_predictions(**{f"{k}_N": v for k, v in rows.items()})
    assert np.isnan([found[name] for name in NAMES]).all()
    assert np.isnan([counted(rows, "weight").metrics()[name] for name in NAMES]).all()
