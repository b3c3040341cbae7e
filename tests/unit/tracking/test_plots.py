"""Figures: what they show, and that odd input draws too."""

import io

import numpy as np
import pytest
import torch
from sklearn.metrics import auc as area_under
from sklearn.metrics import roc_auc_score

from ctrdist.metrics.histogram import ScoreHistogram
from ctrdist.tracking.plots import calibration_figure, learning_curves_figure, roc_figure


def png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return buffer.getvalue()


def counted(logits, labels) -> ScoreHistogram:
    histogram = ScoreHistogram()
    histogram.add(torch.as_tensor(logits), torch.as_tensor(labels))
    return histogram


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_roc_has_the_area_that_its_legend_says(rng):
    y = rng.integers(0, 2, 20_000)
    x = (rng.normal(size=20_000) + y).round(2)
    figure = roc_figure(counted(x, y).roc_curve(), roc_auc_score(y, x), "a run")
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "a run"
    assert f"AUC {roc_auc_score(y, x):.4f}" in texts(axes)
    curve = axes.lines[1]
    assert len(curve.get_xdata()) <= 1001
    drawn = area_under(curve.get_xdata(), curve.get_ydata())
    assert drawn == pytest.approx(roc_auc_score(y, x), abs=1e-3)
    assert len(png(figure)) > 5000


@pytest.mark.parametrize(("offset", "scale"), [(0.0, "linear"), (-6.0, "log")])
def test_calibration_has_equal_axes_logarithmic_where_clicks_are_rare(offset, scale, rng):
    x = rng.normal(size=20_000) + offset
    y = (rng.random(20_000) < 1 / (1 + np.exp(-x))).astype(int)
    (axes,) = calibration_figure(counted(x, y).calibration_table(), "a run").axes
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xscale() == axes.get_yscale() == scale
    ratio = (1 / (1 + np.exp(-x))).sum() / y.sum()
    assert texts(axes)[1] == f"deciles, mean prediction / rate {ratio:.3f}"


def test_learning_curves_mark_the_best_epoch():
    history = {
        "training/epoch_loss": {1: 0.5},
        "logloss": {1: 0.6},
        "auc": {1: 0.7, 2: 0.75, 3: 0.74},
    }
    loss, auc = learning_curves_figure(history, "a run").axes
    assert texts(loss) == ["train", "valid"]
    assert [text.get_text() for text in auc.texts] == ["0.7500"]
    assert list(auc.lines[0].get_xdata()) == [1, 2, 3]


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1], [0, 1]])
def test_few_rows_and_one_class_are_drawn(labels):
    histogram = counted(np.linspace(-1, 1, len(labels)), np.array(labels))
    assert png(roc_figure(histogram.roc_curve(), histogram.metrics()["auc"], "a"))
    assert png(calibration_figure(histogram.calibration_table(), "a"))
    assert png(learning_curves_figure({}, "a"))
    assert png(learning_curves_figure({"auc": {1: float("nan")}}, "a"))
