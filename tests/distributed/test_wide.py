"""The wide part is logistic regression, on any workers, and anchors what a tower may change."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import torch

from ctrdist.batch import TOWER_LOGITS, WIDE_LOGITS
from ctrdist.config.experiment import (
    CheckpointConfig,
    Experiment,
    LoaderConfig,
    ShardingConfig,
    TrackingConfig,
    TrainConfig,
)
from ctrdist.config.optimizers import OptimConfig, TableOptimConfig
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World
from ctrdist.schema import FIRST_VALUE_ID
from ctrdist.sharding.shard import table_parts
from ctrdist.training.build import build_engine
from ctrdist.training.faults.stopping import Interrupted, StopRequest
from ctrdist.training.loop.blend import choose_share
from ctrdist.training.loop.evaluate import evaluate
from ctrdist.training.loop.trainer import Trainer
from ctrdist.training.loop.wide import train_wide
from ctrdist.training.run import evaluate_checkpoint, experiment_of_checkpoint
from jobs.logistic_regression import LogisticConfig
from jobs.logistic_regression import fit as fit_with_sklearn
from tests.datasets import write_counts, write_dataset
from tests.distributed.test_resume import MODEL, Journal
from tests.distributed.test_sharding_equivalence import weights
from tests.ranks import kill_ranks, run_ranks

WIDE_MODEL = replace(MODEL, wide=True, dropout=0.0)


def experiment_for(data: str, sharding: ShardingConfig, name: str = "adagrad") -> Experiment:
    return Experiment(
        model_name="dlf",
        data=data,
        run_name="run",
        model=WIDE_MODEL,
        loader=LoaderConfig(batch_size=128, shuffle_rows=500),
        optim=OptimConfig(
            tables=TableOptimConfig(name=name, lr=0.05, eps=1e-2, occurrence_l2=100.0)
        ),
        sharding=sharding,
        train=TrainConfig(epochs=1, seed=5, embedding_init_std=0.5, monitor="logloss"),
        checkpoint=CheckpointConfig(every_steps=5),
        tracking=TrackingConfig(mlflow=False),
    )


def write(path: Path, multi_valued: bool) -> str:
    rows = {"train": 999, "valid": 600, "test": 600}
    dataset = write_dataset(path, rows, multi_valued=multi_valued)
    write_counts(dataset)
    for field in dataset.schema.categorical:  # the true counts, in place of made-up ones
        column = pads.dataset(path / "train").to_table([field.name])[0].combine_chunks()
        ids = pc.list_flatten(column) if field.multi_valued else column
        counts = np.bincount(ids.to_numpy(), minlength=field.vocabulary_size)[FIRST_VALUE_ID:]
        file = path / "vocabulary" / f"{field.name}.parquet"
        pq.write_table(pq.read_table(file).set_column(2, "count", pa.array(counts)), file)
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("data"), False)


@pytest.fixture(scope="module")
def lists(tmp_path_factory) -> str:
    """A data set with a field of several ids."""
    return write(tmp_path_factory.mktemp("lists"), True)


def fit(world: World, experiment: Experiment, run_dir: str, kill_after: int) -> dict[str, Any]:
    """A whole run, or one that is killed after a step; its weights and results."""
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    summary = Trainer(engine, run_dir, [Journal(kill_after)]).fit()
    found = weights(engine, world) | {"wide": whole_wide(engine)}
    return {"weights": found, "valid": summary["valid"], "test": summary["test"]}


def whole_wide(engine) -> np.ndarray:
    """The weights of the wide part that lie in no table."""
    wide = engine.model.module.wide
    parts = [wide.weight_KR, wide.bias_R, wide.column.float(), wide.share]
    return torch.cat([part.flatten() for part in parts]).numpy().copy()


def test_any_layout_and_number_of_workers_gives_the_same(data, tmp_path):
    one = experiment_for(data, ShardingConfig(default="table_wise", cpu_kernel=False))
    (expected,) = run_ranks(fit, 1, one, str(tmp_path / "one"), -1)
    assert expected["valid"]["gain_bound"] >= 0
    for kind in ("row_wise", "data_parallel"):
        experiment = experiment_for(data, ShardingConfig(default=kind))
        found, _ = run_ranks(fit, 2, experiment, str(tmp_path / kind), -1)
        for name in filter(lambda n: n.startswith("wide"), expected["weights"]):
            values = expected["weights"][name]
            np.testing.assert_allclose(found["weights"][name], values, atol=2e-3, err_msg=name)
        for split in ("valid", "test"):
            for name in ("wide_logloss", "logloss", "wide_auc", "auc"):
                assert found[split][name] == pytest.approx(expected[split][name], abs=2e-3)


def wide_only(world: World, experiment: Experiment) -> dict[str, float]:
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    train_wide(engine, lambda: None, StopRequest())
    return evaluate(engine, "test").metrics


@pytest.mark.parametrize("field", ["data", "lists"])
def test_it_is_as_good_as_the_logistic_regression_of_scikit_learn(field, request):
    data = request.getfixturevalue(field)
    (found,) = run_ranks(wide_only, 1, experiment_for(data, ShardingConfig()))
    assert found["logloss"] == found["wide_logloss"]
    reference = fit_with_sklearn(LogisticConfig(data=data))["test"]
    # not equal: ids of these data are not in the order of counts, so some 1/n are too small
    assert found["logloss"] == pytest.approx(reference["logloss"], abs=6e-3)
    assert found["auc"] == pytest.approx(reference["auc"], abs=6e-3)


def gradients(world: World, experiment: Experiment) -> None:
    """Compares the tables after one step of SGD with a loss that has the penalty written out."""
    strength = experiment.optim.tables.occurrence_l2
    changed = {}
    for l2 in (0.0, strength):
        tables = replace(experiment.optim.tables, occurrence_l2=l2)
        given = replace(experiment, optim=replace(experiment.optim, tables=tables))
        engine = build_engine(given, open_dataset(experiment.data), world)
        before = {t: p.clone() for t, p, _, _ in table_parts(engine.model)}
        trainer = Trainer(engine, ".")
        batch = next(iter(trainer._loader))
        inverse_BC = engine.counts(batch.sparse, len(batch.label_B)) if engine.counts else None
        trainer.step.take(batch)
        changed[l2] = {t: p.clone() for t, p, _, _ in table_parts(engine.model)}
    assert inverse_BC is not None
    rate, size = experiment.optim.tables.lr, batch.global_size
    for c, field in enumerate(engine.dataset.schema.categorical):
        table = f"tokens/{field.name}"
        start = before[table].clone().requires_grad_()
        jagged = batch.sparse[field.name]
        bag_N = torch.repeat_interleave(torch.arange(size), jagged.lengths().long()[:size])
        total_BD = torch.zeros(size, start.shape[1])
        total_BD = total_BD.index_add(0, bag_N, start[jagged.values().long()])
        mean_BD = total_BD / jagged.lengths()[:size].clamp(min=1).unsqueeze(1)
        (strength / 2 * (inverse_BC[:, c] * mean_BD.square().sum(1)).sum() / size).backward()
        found = (changed[0.0][table] - changed[strength][table]) / rate
        torch.testing.assert_close(found, start.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernel", [True, False])
def test_the_penalty_is_that_of_the_formula(lists, kernel):
    sharding = ShardingConfig(default="table_wise", cpu_kernel=kernel)
    run_ranks(gradients, 1, experiment_for(lists, sharding, "sgd"))


def micro(world: World, experiment: Experiment, run_dir: str) -> dict[str, np.ndarray]:
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    trainer = Trainer(engine, run_dir)
    for _, batch in zip(range(4), trainer._loader, strict=False):
        trainer.step.take(batch)
        trainer.progress.step += 1
    return weights(engine, world)


@pytest.mark.parametrize("name", ["rowwise_adagrad", "adagrad", "adam"])
def test_it_works_with_each_optimiser_in_micro_batches_and_on_two_workers(data, tmp_path, name):
    kind = "data_parallel" if name == "adam" else "row_wise"
    model = replace(WIDE_MODEL, batch_norm=False)
    one = replace(experiment_for(data, ShardingConfig(default=kind), name), model=model)
    (expected,) = run_ranks(micro, 1, one, str(tmp_path))
    parts = replace(one, loader=replace(one.loader, accumulate=3))
    (in_parts,) = run_ranks(micro, 1, parts, str(tmp_path))
    found, _ = run_ranks(micro, 2, one, str(tmp_path))
    for table, whole in expected.items():
        np.testing.assert_allclose(in_parts[table], whole, atol=2e-3, err_msg=table)
        np.testing.assert_allclose(found[table], whole, atol=2e-3, err_msg=table)


def test_a_killed_run_goes_on_to_the_same_weights_and_keeps_its_blend(data, tmp_path):
    experiment = experiment_for(data, ShardingConfig(default="table_wise"))
    (whole,) = run_ranks(fit, 1, experiment, str(tmp_path / "whole"), -1)
    assert kill_ranks(fit, 1, experiment, str(tmp_path / "run"), 7) == [-signal.SIGKILL]
    (resumed,) = run_ranks(fit, 1, experiment, str(tmp_path / "run"), -1)
    for name, values in whole["weights"].items():
        np.testing.assert_array_equal(resumed["weights"][name], values, err_msg=name)
    assert resumed["test"] == whole["test"]
    (again,) = run_ranks(evaluated, 1, str(tmp_path / "run"), data)
    assert again["test"] == whole["test"]


def evaluated(world: World, run_dir: str, data: str) -> dict[str, Any]:
    experiment, checkpoint, _ = experiment_of_checkpoint(run_dir)
    experiment = replace(experiment, data=data)
    return evaluate_checkpoint(experiment, checkpoint, "test", world, lambda _: None)


def shares(world: World, experiment: Experiment) -> dict[str, dict[str, float]]:
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    random = torch.Generator().manual_seed(0)
    truth_N = torch.randn(20_000, generator=random) - 1
    label_N = (torch.rand(20_000, generator=random) < torch.sigmoid(truth_N)).float()
    wide_N = 0.5 * truth_N - 0.4
    noise_N = wide_N + torch.randn(20_000, generator=random)
    towers = {"better": truth_N, "noise": noise_N, "nan": wide_N * torch.nan, "same": wide_N}
    found = {}
    for name, tower_N in towers.items():
        found[name] = choose_share(engine, wide_N, tower_N, label_N)
        found[name]["set"] = float(engine.model.module.wide.share)
    found["no clicks"] = choose_share(engine, wide_N, wide_N - 5, torch.zeros(20_000))
    return found


def test_the_share_of_a_tower_is_what_it_certainly_gains(data):
    found, other = run_ranks(shares, 2, experiment_for(data, ShardingConfig()))
    assert str(found) == str(other)
    assert found["better"]["tower_share"] == 1 == found["better"]["set"]
    assert found["better"]["gain"] > found["better"]["gain_bound"] > 0
    for name in ("noise", "nan", "same", "no clicks"):
        assert found[name]["tower_share"] == found[name]["gain_bound"] == 0, name


def outputs(world: World, experiment: Experiment) -> None:
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    train_wide(engine, lambda: None, StopRequest())
    batch = next(iter(Trainer(engine, ".")._loader))
    trained = engine.model(batch)
    assert WIDE_LOGITS not in trained.aux
    engine.model.eval()
    with torch.no_grad():
        for share in (0.0, 0.3, 1.0):
            engine.model.module.wide.share.fill_(share)
            output = engine.model(batch)
            wide_B, tower_B = output.aux[WIDE_LOGITS], output.aux[TOWER_LOGITS]
            assert not torch.allclose(wide_B, tower_B)
            torch.testing.assert_close(output.logits_B, (1 - share) * wide_B + share * tower_B)
    stop = StopRequest()
    stop.ask(signal.SIGTERM)
    with pytest.raises(Interrupted):
        train_wide(engine, lambda: None, stop)


def test_training_sees_the_tower_alone_and_evaluation_the_blend(data):
    run_ranks(outputs, 1, experiment_for(data, ShardingConfig()))
