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
from ctrdist.tracking.versions import git_commit, package_versions

__all__ = [
    "DatasetUse",
    "RunTracker",
    "abundance_figure",
    "attention_figure",
    "calibration_figure",
    "classes_figure",
    "end_killed",
    "git_commit",
    "learning_curves_figure",
    "package_versions",
    "replay",
    "roc_figure",
    "steps_figure",
]
