"""Evaluates a checkpoint on a split of a data set.

python jobs/evaluate.py --checkpoint runs/first --data data/criteo --split test
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.config.paths import IS_PATH
from jobs.console.cli import call, required, run


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of an evaluation."""

    checkpoint: str = field(default="", metadata=IS_PATH)
    """A run's directory (its best checkpoint) or one of its checkpoints/step-… directories;
    local or s3://."""
    data: str = field(default="", metadata=IS_PATH)
    """Data set to evaluate on; empty: the one that the run was trained on."""
    split: Literal["train", "valid", "test"] = "test"
    """Split to evaluate on."""
    label: str = ""
    """Name of the label to evaluate by, where the data set has several; empty: the one that the
    run was trained on."""
    workers: int = 1
    """Worker processes; may differ from those of training."""


def main(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluates, and shows the metrics."""
    required(config, checkpoint="DIR")
    from ctrdist.log import setup

    setup(0)
    from cluster.launch import launch
    from ctrdist.data.manifest import open_dataset
    from ctrdist.training.run import experiment_of_checkpoint
    from jobs.console.run import RunConsole, show_evaluation

    experiment, path, _ = experiment_of_checkpoint(config.checkpoint)
    data, label = config.data or experiment.data, config.label or experiment.label
    open_dataset(data, label).split(config.split)
    experiment = replace(experiment, data=data, label=label, workers=config.workers, min_workers=0)
    with RunConsole() as console:
        result = launch(
            "evaluate", experiment, {"checkpoint": path, "split": config.split}, console.show
        )
    show_evaluation(result, config.split)
    return result


if __name__ == "__main__":
    run(lambda: call(main, EvaluateConfig, __doc__))
