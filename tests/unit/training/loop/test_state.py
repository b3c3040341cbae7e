"""Progress of a run: which evaluation is the best, why a run ends, and what old checkpoints say."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from ctrdist.config.experiment import TrainConfig
from ctrdist.strict_json import to_text
from ctrdist.training.loop.evaluate import why_not_finite
from ctrdist.training.loop.state import Progress, StopReason, is_finite

FINITE = {"auc": 0.7, "logloss": 0.4, "ne": 0.9, "rows": 300.0, "positives": 60.0}
NAN = {**FINITE, "auc": math.nan, "logloss": math.nan, "ne": math.nan}
CONFIG = TrainConfig(monitor="auc", patience=3)


def test_an_evaluation_that_gives_nan_is_never_the_best():
    progress = Progress(step=10)
    progress.judge(NAN, CONFIG)
    assert (progress.best_step, progress.best_value, progress.stale_epochs) == (None, None, 1)
    progress.step = 20
    progress.judge({**FINITE, "auc": 0.1}, CONFIG)
    assert (progress.best_step, progress.best_value) == (20, 0.1)
    progress.step = 30
    progress.judge(NAN, CONFIG)
    assert (progress.best_step, progress.stale_epochs, progress.stopped) == (20, 1, None)


def test_a_finite_monitor_does_not_hide_predictions_of_nan():
    assert not is_finite({**FINITE, "logloss": math.nan}, "auc")
    one_class = {**FINITE, "auc": math.nan, "positives": 0.0}
    assert is_finite(one_class, "logloss") and not is_finite(one_class, "auc")
    assert not is_finite({**FINITE, "ne": math.inf}, "ne")


def test_a_run_without_a_finite_evaluation_stops_by_patience():
    progress = Progress()
    for _ in range(3):
        progress.judge(NAN, CONFIG)
    assert progress.stopped is StopReason.PATIENCE and progress.best_step is None


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        (FINITE, ""),
        ({**FINITE, "auc": math.nan, "positives": 0.0}, "auc is not finite: all 300 rows have"),
        ({**FINITE, "gauc": math.nan}, "gauc is not finite: no user has rows of both labels"),
    ],
)
def test_the_reason_is_named(metrics, reason):
    assert why_not_finite(metrics).startswith(reason) and bool(reason) == bool(
        why_not_finite(metrics)
    )


def saved(**values: Any) -> dict[str, Any]:
    """The state of a checkpoint of version 1, read back from its file."""
    state = {**Progress(step=40).state_dict(), "version": 1, "stopped": "", **values}
    del state["stop_text"]
    return json.loads(json.dumps(state))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", None),
        ("train.epochs = 2 reached", StopReason.EPOCHS),
        ("train.max_steps = 40 reached", StopReason.MAX_STEPS),
        ("auc on valid has not improved for 3 epochs", StopReason.PATIENCE),
    ],
)
def test_checkpoints_of_version_1_are_read(text, reason):
    progress = Progress()
    progress.load_state_dict(saved(stopped=text))
    assert (progress.step, progress.stopped, progress.stop_text) == (40, reason, text)
    again = Progress()
    again.load_state_dict(json.loads(json.dumps(progress.state_dict())))
    assert again == progress


def test_a_best_evaluation_of_nan_in_version_1_does_not_count():
    progress = Progress()
    progress.load_state_dict(saved(best_value=math.nan, best_step=20, best_metrics=NAN))
    assert (progress.best_value, progress.best_step, progress.best_metrics) == (None, None, {})


@pytest.mark.parametrize(
    ("reason", "config", "epoch", "continues"),
    [
        (StopReason.EPOCHS, TrainConfig(epochs=2), 2, False),
        (StopReason.EPOCHS, TrainConfig(epochs=3), 2, True),
        (StopReason.MAX_STEPS, TrainConfig(epochs=3, max_steps=40), 1, False),
        (StopReason.MAX_STEPS, TrainConfig(epochs=3, max_steps=0), 1, True),
        (StopReason.MAX_STEPS, TrainConfig(epochs=1, max_steps=50), 1, False),
        (StopReason.PATIENCE, TrainConfig(epochs=9), 2, False),
    ],
)
def test_a_raised_bound_lets_a_run_continue(reason, config, epoch, continues):
    progress = replace(Progress(step=40), stopped=reason, stop_text="a bound")
    progress.resume(config, epoch)
    assert (progress.stopped is None) == continues


def test_a_metric_that_is_not_defined_survives_json():
    progress = Progress()
    progress.judge({"auc": 0.7, "logloss": 0.5, "gauc": math.nan}, TrainConfig())
    again = Progress()
    again.load_state_dict(json.loads(to_text(progress.state_dict())))
    assert math.isnan(again.best_metrics.pop("gauc"))
    assert again.best_metrics == {"auc": 0.7, "logloss": 0.5}


@pytest.mark.parametrize(("gain", "best"), [(0.01, 30), (0.0, 0), (-0.01, 0)])
def test_the_chosen_epoch_is_the_best_unless_valid_speaks_against_it(gain, best):
    progress = Progress(chosen_epochs=2, chosen_share=0.3)
    for step, found, at_chosen in ((0, 0.0, False), (15, 0.5, False), (30, gain, True)):
        progress.step = step
        tower = {"tower_logloss": 1 / step} if step else {}
        progress.judge({**FINITE, "gain": found, **tower}, CONFIG, at_chosen=at_chosen)
    assert progress.lr_factor == 1 and progress.stale_epochs == 0
    assert progress.best_step == best and progress.stopped is StopReason.FOLDS
    assert ("valid shows no gain" in progress.stop_text) == (best == 0)
