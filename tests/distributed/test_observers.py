"""Evaluations that are not finite, and observers that fail, in real runs."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest

from ctrdist.checkpoint.store import complete, read
from ctrdist.config.experiment import (
    CheckpointConfig,
    Experiment,
    LoaderConfig,
    TrackingConfig,
    TrainConfig,
)
from ctrdist.distributed.process_group import World
from ctrdist.errors import TrainingError
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.tracking import plots
from ctrdist.tracking.events import EVENTS_NAME, read_events
from ctrdist.training import run
from ctrdist.training.build import build_engine
from ctrdist.training.observe import diagnostics, messages, observers, recording
from ctrdist.training.observe.observers import Observer, Observers
from tests.datasets import write_dataset
from tests.ranks import run_ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 400, "valid": 100, "test": 100})
    return str(path)


def experiment_for(data: str, runs: Path) -> Experiment:
    return Experiment(
        model_name="dlf",
        data=data,
        runs=str(runs),
        run_name="run",
        model=DLFConfig(embedding_dim=4, num_layers=1, tokens_per_block=2, rank=2, hidden_dim=8),
        loader=LoaderConfig(batch_size=128),
        train=TrainConfig(epochs=2),
        checkpoint=CheckpointConfig(every_steps=0),
        tracking=TrackingConfig(mlflow=False),
    )


class Warnings(logging.Handler):
    """Keeps the texts of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        logging.getLogger("ctrdist").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def build_without_predictions(*args: Any) -> Any:
    """An engine that predicts nan in evaluation, and a number in training."""
    engine = build_engine(*args)
    engine.tower.register_forward_hook(
        lambda tower, _, output: (
            None if tower.training else output._replace(logits_B=output.logits_B * math.nan)
        )
    )
    return engine


def train_without_predictions(world: World, experiment: Experiment) -> dict[str, Any]:
    run.build_engine = build_without_predictions  # type: ignore[attr-defined]
    warnings, evaluations, error = Warnings(), [], ""

    def emit(message: messages.Message) -> None:
        if isinstance(message, messages.Evaluation):
            evaluations.append((message.split, message.best))

    try:
        run.train(experiment, world, emit)
    except TrainingError as raised:
        error = str(raised)
    return {"warnings": warnings.texts, "evaluations": evaluations, "error": error}


def test_a_run_without_a_finite_evaluation_ends_with_an_error_and_keeps_its_checkpoint(
    data, tmp_path
):
    experiment = experiment_for(data, tmp_path)
    result, other = run_ranks(train_without_predictions, 2, experiment)
    assert result["evaluations"] == [("valid", False), ("valid", False)]
    told = [text for text in result["warnings"] if "not finite" in text]
    assert len(told) == 2 and other["warnings"] == []
    assert told[0].startswith("split valid: auc, logloss, ne")
    assert "the model predicts nan for some rows" in told[0]
    newest = complete(tmp_path / "run/checkpoints")[-1]
    assert result["error"] == other["error"]
    assert newest in result["error"] and "optim.dense.lr" in result["error"]
    assert read(newest).state["progress"]["best_step"] is None
    events, _ = read_events(tmp_path / "run" / EVENTS_NAME, 0)
    assert events[-1].kind == "finish" and events[-1].values["status"] == "FAILED"


def fail(*_: Any) -> Any:
    raise ValueError("no ink")


def train_without_ink(world: World, experiment: Experiment) -> tuple[dict[str, Any], list[str]]:
    """Every figure fails, and so does what is measured at the end, on all ranks."""
    for module, name in (
        (recording, "roc_figure"),
        (recording, "learning_curves_figure"),
        (diagnostics, "classes_figure"),
        (diagnostics, "attention_mass"),
        (plots, "new_figure"),
    ):
        setattr(module, name, fail)
    warnings = Warnings()
    return run.train(experiment, world, lambda message: None), warnings.texts


@pytest.mark.parametrize("workers", [1, 2])
def test_plots_and_diagnostics_that_fail_cost_warnings_and_no_run(data, tmp_path, workers):
    results = run_ranks(train_without_ink, workers, experiment_for(data, tmp_path))
    summary, warnings = results[0]
    assert summary["test"]["auc"] > 0 and summary["run_id"].startswith("local-")
    assert [w for w in warnings if w.startswith("figure learning_curves failed (ValueError: no")]
    assert [w for w in warnings if w.startswith("Diagnostics failed (ValueError: no ink)")]
    events, _ = read_events(tmp_path / "run" / EVENTS_NAME, 0)
    assert events[-1].kind == "finish" and events[-1].values["status"] == "FINISHED"


class Fails(Observer):
    """Fails in each step, on the given ranks."""

    on_all_ranks = True

    def __init__(self, *ranks: int) -> None:
        self.ranks, self.rank = ranks, -1

    def on_step(self, event: Any) -> None:
        if self.rank in self.ranks:
            raise ValueError(f"rank {self.rank}")


def tell(world: World, ranks: tuple[int, ...]) -> list[str]:
    observers._AGREEMENT = observers._AGREEMENT / 60
    observer = Fails(*ranks)
    observer.rank = world.rank
    warnings, told = Warnings(), Observers([observer])
    for _ in range(3):
        try:
            told.tell(lambda o: o.on_step(None))  # type: ignore[arg-type]
        except ValueError as error:
            return [f"raised {error}"]
    return warnings.texts


def test_an_observer_with_collectives_must_fail_on_all_ranks_to_be_tolerated():
    """If it fails on one rank alone, the others wait for that rank."""
    both = run_ranks(tell, 2, (0, 1))
    assert [len(texts) for texts in both] == [1, 1]
    assert both[1] == ["Fails failed (ValueError: rank 1); the run continues"]
    assert run_ranks(tell, 2, (1,)) == [[], ["raised rank 1"]]
    assert run_ranks(tell, 1, (0,))[0] == ["Fails failed (ValueError: rank 0); the run continues"]
