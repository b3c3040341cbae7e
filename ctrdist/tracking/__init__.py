"""Records runs: always in events.jsonl, and in MLflow if it can be reached."""

from ctrdist.tracking.diagnostic_plots import (
    abundance_figure,
    attention_figure,
    classes_figure,
    steps_figure,
)
from ctrdist.tracking.events import DatasetUse
from ctrdist.tracking.plots import calibration_figure, learning_curves_figure, roc_figure
from ctrdist.tracking.replay import end_killed, replay
from ctrdist.tracking.tracker import RunTracker

__all__ = [
    "DatasetUse",
    "RunTracker",
    "abundance_figure",
    "attention_figure",
    "calibration_figure",
    "classes_figure",
    "end_killed",
    "learning_curves_figure",
    "replay",
    "roc_figure",
    "steps_figure",
]
