"""Evaluates a checkpoint on a split of a data set.

python jobs/evaluate.py --checkpoint runs/first --data data/criteo --split test
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.config.parse import parse
from ctrdist.errors import ConfigError
from jobs.console.cli import print_json, run
from jobs.train import absolute


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of an evaluation."""

    checkpoint: str = ""
    """A run's directory (its best checkpoint) or one of its checkpoints/step-… directories;
    local or s3://."""
    data: str = ""
    """Data set to evaluate; empty: the one that it was trained on."""
    split: Literal["train", "valid", "test"] = "test"
    """Which rows."""
    workers: int = 1
    """Worker processes; need not be as many as in training."""


def main() -> None:
    """Reads the command line, evaluates with Ray, and shows the metrics."""
    config, switches = parse(
        EvaluateConfig,
        description=__doc__,
        flags={"json": "The last line on stdout is one JSON object with the results."},
        prog="jobs/evaluate.py",
    )
    if not config.checkpoint:
        raise ConfigError(
            "--checkpoint DIR is missing: a run's directory, or one of its checkpoints/step-…"
        )
    from ctrdist.log import setup

    setup(0)
    from cluster.launch import launch
    from ctrdist.data.manifest import open_dataset
    from ctrdist.training.run import experiment_of_checkpoint
    from jobs.console.run import RunConsole, show_evaluation

    checkpoint = config.checkpoint
    checkpoint = checkpoint if "://" in checkpoint else absolute(checkpoint, "--checkpoint")
    experiment, path, _ = experiment_of_checkpoint(checkpoint)
    data = config.data or experiment.data
    data = data if "://" in data else absolute(data, "--data")
    open_dataset(data).split(config.split)
    experiment = replace(experiment, data=data, workers=config.workers, min_workers=0)
    with RunConsole() as console:
        result = launch(
            "evaluate", experiment, {"checkpoint": path, "split": config.split}, console.show
        )
    show_evaluation(result, config.split)
    if switches["json"]:
        print_json(result)


if __name__ == "__main__":
    run(main)
