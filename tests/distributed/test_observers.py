"""Evaluations that are not finite, and observers that fail, in real runs."""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
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
from ctrdist.training.build import Engine, build_engine
from ctrdist.training.observe import diagnostics, messages, observers, recording
from ctrdist.training.observe.observers import Observer, Observers
from tests.datasets import write_counts, write_dataset
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


def spoil_predictions(engine: Engine) -> None:
    """Makes the tower predict nan in evaluation, and numbers in training."""
    engine.tower.register_forward_hook(
        lambda tower, _, output: (
            None if tower.training else output._replace(logits_B=output.logits_B * math.nan)
        )
    )


def spoil_weight(engine: Engine) -> None:
    """Sets a weight to infinity as soon as an evaluation begins."""

    def spoil() -> AbstractContextManager[None]:
        next(engine.tower.parameters()).data.view(-1)[0] = math.inf
        return nullcontext()

    engine.averaged = spoil  # type: ignore[method-assign]


def train_spoilt(
    world: World, experiment: Experiment, spoil: Callable[[Engine], None]
) -> dict[str, Any]:
    """Trains with an engine that is spoilt; messages and the error."""

    def build(*args: Any) -> Engine:
        engine = build_engine(*args)
        spoil(engine)
        return engine

    run.build_engine = build  # type: ignore[attr-defined]
    evaluations, error = [], ""

    def emit(message: messages.Message) -> None:
        if isinstance(message, messages.Evaluation):
            evaluations.append((message.split, message.best))

    try:
        run.train(experiment, world, emit)
    except TrainingError as raised:
        error = str(raised)
    return {"evaluations": evaluations, "error": error}


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (spoil_predictions, "All weights and numeric values are sound"),
        (spoil_weight, "These weights are not finite: tower."),
    ],
)
def test_predictions_of_nan_end_the_run_with_the_cause_and_keep_its_checkpoint(
    data, tmp_path, spoil, cause
):
    experiment = experiment_for(data, tmp_path)
    experiment = replace(experiment, checkpoint=CheckpointConfig(every_steps=2))
    result, other = run_ranks(train_spoilt, 2, experiment, spoil)
    assert result["evaluations"] == []
    assert "split valid: the model predicts nan or infinity for 100 rows." in result["error"]
    assert cause in result["error"] and result["error"] == other["error"]
    newest = complete(tmp_path / "run/checkpoints")[-1]
    assert read(newest).state["progress"]["best_step"] is None
    events, _ = read_events(tmp_path / "run" / EVENTS_NAME, 0)
    assert events[-1].kind == "finish" and events[-1].values["status"] == "FAILED"


@pytest.mark.parametrize("wide", [False, True])
def test_a_huge_value_in_valid_ends_the_run_with_its_column_and_row(tmp_path, wide):
    path = tmp_path / "data"
    write_counts(write_dataset(path, {"train": 400, "valid": 100, "test": 100}))
    file = path / "valid" / "part-00000.parquet"
    table = pq.read_table(file)
    at = table.schema.get_field_index("I1")
    values = table["I1"].to_numpy().copy()
    values[17] = 3e38
    table = table.set_column(at, table.schema.field(at), pa.array(values, pa.float32()))
    pq.write_table(table, file, row_group_size=pq.read_metadata(file).row_group(0).num_rows)
    experiment = experiment_for(str(path), tmp_path)
    experiment = replace(experiment, model=replace(experiment.model, wide=wide))
    (error,) = run_ranks(train_until_error, 1, experiment)
    assert "Column I1 has the value 3e+38 in row 17 of valid/part-00000.parquet" in error


def train_until_error(world: World, experiment: Experiment) -> str:
    try:
        run.train(experiment, world, lambda _: None)
    except TrainingError as error:
        return str(error)
    return ""


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
