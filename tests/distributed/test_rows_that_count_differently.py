"""Weights, draws and further labels: the same on any workers, and right against the whole log."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ctrdist.checkpoint.store import read
from ctrdist.config.experiment import (
    CheckpointConfig,
    Experiment,
    LoaderConfig,
    TrackingConfig,
    TrainConfig,
)
from ctrdist.config.optimizers import OptimConfig, TableOptimConfig
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World
from ctrdist.errors import CheckpointError, ConfigError, DataError
from ctrdist.training.build import build_engine, check_same_model
from ctrdist.training.complete import complete
from ctrdist.training.loop.trainer import Trainer
from ctrdist.training.run import evaluate_checkpoint, experiment_of_checkpoint
from jobs.logistic_regression import LogisticConfig
from jobs.logistic_regression import fit as fit_with_sklearn
from preprocessing.config.rows import SampleConfig
from preprocessing.config.settings import (
    ColumnConfig,
    FormatConfig,
    PreprocessConfig,
    SplitConfig,
)
from preprocessing.pipeline import preprocess
from tests.distributed.test_resume import MODEL
from tests.ranks import run_ranks

ROWS = 5_000


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> str:
    """A log whose clicks depend on two columns. The weight of one without a click is 4 or 0."""
    rng = np.random.default_rng(3)
    columns = {name: rng.integers(0, 20, ROWS) for name in ("a", "b")}
    effects = rng.normal(size=(2, 20))
    log_odds = effects[0][columns["a"]] + effects[1][columns["b"]] - 2.3
    label = (rng.random(ROWS) < 1 / (1 + np.exp(-log_odds))).astype(int)
    weight = np.where(label == 1, 1, 4 * (rng.random(ROWS) < 0.25))
    path = tmp_path_factory.mktemp("log") / "log.csv"
    frame = pd.DataFrame({"label": label, "weight": weight, "rare": label & (columns["a"] < 10)})
    frame.assign(**columns).to_csv(path, index=False)
    return str(path)


def made(log: str, output: Path, roles: dict[str, str], sample: SampleConfig | None = None) -> str:
    columns = [
        ColumnConfig(name="label", role="label"),
        *(ColumnConfig(name=n, role=roles.get(n, "ignore")) for n in ("weight", "rare")),
        *(ColumnConfig(name=n) for n in ("a", "b")),
    ]
    config = PreprocessConfig(
        name="made",
        input=[log],
        output=str(output),
        columns=columns,
        format=FormatConfig(type="csv", header=True),
        split=SplitConfig(fractions=[0.4, 0.3, 0.3]),
        sample=sample or SampleConfig(),
        workers=1,
    )
    preprocess(config, lambda: None)
    return str(output)


def experiment_for(data: str, label: str = "") -> Experiment:
    completed = complete(
        Experiment(
            model_name="dlf",
            data=data,
            label=label,
            run_name="run",
            model=replace(MODEL, wide=True, dropout=0.0),
            loader=LoaderConfig(batch_size=512, shuffle_rows=4000),
            optim=OptimConfig(tables=TableOptimConfig(name="adagrad", lr=0.05, eps=1e-2)),
            train=TrainConfig(epochs=1, seed=5, embedding_init_std=0.1, monitor="logloss"),
            checkpoint=CheckpointConfig(every_steps=0),
            tracking=TrackingConfig(mlflow=False),
        )
    )
    # the class of a model's own experiment is made at run time, and cannot be sent to ranks
    return Experiment(**{f.name: getattr(completed, f.name) for f in fields(Experiment)})


def fit(world: World, experiment: Experiment, run_dir: str) -> dict[str, Any]:
    engine = build_engine(experiment, open_dataset(experiment.data, experiment.label), world)
    return Trainer(engine, run_dir).fit()


def trained(tmp_path: Path, experiment: Experiment, workers: int) -> dict[str, Any]:
    return run_ranks(fit, workers, experiment, str(tmp_path / f"{workers}"))[0]


def test_a_model_of_drawn_rows_predicts_the_probabilities_of_the_whole_log(log, tmp_path):
    sample = SampleConfig(negatives=0.2, splits=["train", "test"])
    data, whole = made(log, tmp_path / "data", {}, sample), made(log, tmp_path / "whole", {})
    experiment = experiment_for(data)
    assert experiment.train.negatives_kept == 0.2
    ((summary, other),) = run_ranks(fitted_and_uncorrected, 1, experiment, str(tmp_path))
    # rows of the drawn split stand for all
    found, all_rows = summary["test"], open_dataset(whole).split("test")
    assert found["rows"] < 0.4 * all_rows.rows
    assert found["base_rate"] == pytest.approx(all_rows.positives / all_rows.rows, rel=0.1)
    assert found["ne"] < 1 and found["calibration"] == pytest.approx(1, abs=0.2)
    assert other["test"]["calibration"] > 1.8
    reference = fit_with_sklearn(LogisticConfig(data=data))["test"]
    assert reference["calibration"] == pytest.approx(1, abs=0.2)


def fitted_and_uncorrected(world: World, experiment: Experiment, run_dir: str) -> tuple[Any, Any]:
    summary = fit(world, experiment, run_dir)
    uncorrected = replace(experiment, train=replace(experiment.train, negatives_kept=1.0))
    return summary, evaluated(world, uncorrected, summary["checkpoint"])


def test_weights_count_the_same_on_two_workers(log, tmp_path):
    data = made(log, tmp_path / "data", {"weight": "weight"})
    experiment = experiment_for(data)
    one, two = (trained(tmp_path, experiment, workers) for workers in (1, 2))
    for split in ("valid", "test"):
        for name in ("auc", "logloss", "ne", "calibration", "wide_logloss"):
            assert two[split][name] == pytest.approx(one[split][name], abs=3e-3), name
    assert one["test"]["rows"] == 3 * ROWS // 10
    # rows of the weight 0 are no part of the training, and the others make up for them
    assert one["test"]["calibration"] == pytest.approx(1, abs=0.2)
    reference = fit_with_sklearn(LogisticConfig(data=data))["test"]
    assert one["test"]["logloss"] == pytest.approx(reference["logloss"], abs=0.01)


def test_the_label_is_chosen_for_training_and_evaluation(log, tmp_path):
    data = made(log, tmp_path / "data", {"rare": "label"})
    with pytest.raises(ConfigError, match=r"--label x: .* has label, rare"):
        experiment_for(data, "x")
    assert experiment_for(data, "label").label == ""
    rare = experiment_for(data, "rare")
    ((summary, by_label),) = run_ranks(fitted_and_evaluated, 1, rare, str(tmp_path))
    dataset, other = open_dataset(data, "rare"), open_dataset(data)
    assert summary["test"]["positives"] == dataset.split("test").positives
    assert by_label["test"]["positives"] == other.split("test").positives
    assert 0 < dataset.split("test").positives < other.split("test").positives
    given, path, _ = experiment_of_checkpoint(summary["checkpoint"])
    assert given.label == "rare"
    with pytest.raises(CheckpointError, match="label = 'rare', this run has label = ''"):
        check_same_model(read(path), experiment_for(data), dataset.schema.to_json())
    reference = fit_with_sklearn(LogisticConfig(data=data, label="rare"))["test"]
    assert reference["positives"] == dataset.split("test").positives


def fitted_and_evaluated(world: World, experiment: Experiment, run_dir: str) -> tuple[Any, Any]:
    summary = fit(world, experiment, run_dir)
    return summary, evaluated(world, replace(experiment, label="label"), summary["checkpoint"])


def evaluated(world: World, experiment: Experiment, checkpoint: str) -> dict[str, Any]:
    return evaluate_checkpoint(experiment, checkpoint, "test", world, lambda _: None)


def test_weights_that_are_all_zero_are_refused(log, tmp_path):
    text = Path(log).read_text().replace(",4,", ",0,").replace(",1,", ",0,")
    zero = tmp_path / "zero.csv"
    zero.write_text(text)
    data = made(str(zero), tmp_path / "data", {"weight": "weight"})
    with pytest.raises(DataError, match="all training rows have the weight 0"):
        experiment_for(data)
