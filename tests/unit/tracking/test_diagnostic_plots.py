"""Figures of diagnostics: what they show, and that names do not cover each other."""

from itertools import pairwise

import numpy as np
import pytest

from ctrdist.tracking.events import EventLog, metric_history
from ctrdist.tracking.plots import (
    abundance_figure,
    attention_figure,
    classes_figure,
    steps_figure,
)

FIELDS = [f"I{i}" for i in range(1, 14)] + [f"category_{i}" for i in range(1, 27)]


def overlaps(figure, texts) -> int:
    """Neighbours among the texts that cover each other."""
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) > 1
    return sum(a.overlaps(b) for a, b in pairwise(boxes))


def test_abundance_marks_the_tables_below_the_bound(rng):
    share = {"a": 0.5, "b": 0.2, "c": 0.1, "d": 0.25}
    (axes,) = abundance_figure(share, 0.25, "a run").axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["c", "b", "d", "a"]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [0.1, 0.2, 0.25, 0.5]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert axes.get_title(loc="left") == "a run · 2 of 4 below 0.25"


def test_names_of_39_fields_do_not_cover_each_other(rng):
    share = {f"tokens/{field}": value for field, value in zip(FIELDS, rng.random(39), strict=True)}
    figure = abundance_figure(share, 0.25, "a run")
    assert overlaps(figure, figure.axes[0].get_yticklabels()) == 0
    figure = attention_figure(rng.dirichlet(np.ones(39), size=39), FIELDS, "a run")
    assert overlaps(figure, figure.axes[0].get_xticklabels()) == 0
    assert overlaps(figure, figure.axes[0].get_yticklabels()) == 0


def test_attention_has_a_cell_for_each_pair_and_few_fields_their_values(rng):
    mass_FF = rng.dirichlet(np.ones(3), size=3)
    axes = attention_figure(mass_FF, ["a", "b", "c"], "a run").axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), mass_FF)
    assert axes.get_xlabel() == "attended field"
    assert [text.get_text() for text in axes.texts] == [f"{v:.2f}" for v in mass_FF.flatten()]


def test_classes_are_stacked_to_one():
    names = ("well_classified", "poorly_classified", "misclassified")
    values = {"well_classified": 0.5, "poorly_classified": 0.3, "misclassified": 0.2}
    history = {
        f"classes/valid_{label}_{name}": {1: values[name], 2: values[name]}
        for label in ("positives", "negatives")
        for name in names
    }
    figure = classes_figure(history, "a run")
    assert len(figure.axes) == 2  # no train in it
    for axes in figure.axes:
        tops = [bar.get_y() + bar.get_height() for bar in axes.patches]
        assert tops == pytest.approx([0.5, 0.5, 0.8, 0.8, 1.0, 1.0])


def test_steps_have_a_line_for_each_name():
    history = {f"part_{i}": {1: 0.5 + i, 5: 2.0} for i in range(12)} | {"late": {5: 1.0}}
    figure = steps_figure(history, "norm", "a run", logarithmic=True)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log" and len(axes.lines) == 13
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 13
    assert overlaps(figure, figure.legends[0].get_texts()) == 0


def test_empty_figures_are_drawn():
    for figure in (
        abundance_figure({}, 0.25, "a"),
        classes_figure({}, "a"),
        steps_figure({}, "norm", "a", logarithmic=True),
        steps_figure({"x": {1: float("nan")}}, "norm", "a", logarithmic=True),
    ):
        figure.canvas.draw()


def test_history_takes_the_later_of_two_values_of_a_step(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for step, value in ((2, 1.0), (4, float("nan")), (3, 5.0), (4, 7.0)):
        log.append("metrics", {"grad_norm/a": value, "train/loss": 0.0}, step)
    log.append("finish", {"grad_norm/a": 9})
    log.close()
    history = metric_history(tmp_path / "events.jsonl", ("grad_norm/",))
    assert history == {"grad_norm/a": {2: 1.0, 3: 5.0, 4: 7.0}}
    assert list(history["grad_norm/a"]) == [2, 3, 4]
