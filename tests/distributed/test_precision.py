"""Micro-batches, scaled losses, half-precision tables and quantised communication."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ctrdist.batch import Batch
from ctrdist.config.experiment import Experiment, ShardingConfig
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World
from ctrdist.sharding.shard import table_parts
from ctrdist.training.build import Engine, build_engine
from ctrdist.training.loop.micro_batches import LossScale, TowerPass
from ctrdist.training.loop.trainer import Trainer
from ctrdist.training.observe.observers import Observers
from tests.datasets import write_dataset
from tests.distributed.test_table_optimizers import STEPS, experiment_for, steps
from tests.ranks import run_ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 1999, "valid": 300, "test": 300}, multi_valued=True)
    return str(path)


def in_micro_batches(experiment: Experiment, number: int) -> Experiment:
    """Without what depends on the slice: dropout's draws and batch statistics."""
    model = replace(experiment.model, dropout=0.0, batch_norm=False)
    return replace(experiment, model=model, loader=replace(experiment.loader, accumulate=number))


@pytest.mark.parametrize(
    ("name", "kind", "workers"),
    [("adam", "data_parallel", 1), ("adagrad", "row_wise", 2), ("adagrad", "data_parallel", 2)],
)
def test_micro_batches_make_the_same_step(data, tmp_path, name, kind, workers):
    whole = in_micro_batches(experiment_for(data, name, ShardingConfig(default=kind)), 1)
    one = run_ranks(steps, workers, whole, str(tmp_path / "a"), STEPS)[0]
    # three do not divide a worker's rows
    more = run_ranks(steps, workers, in_micro_batches(whole, 3), str(tmp_path / "b"), STEPS)[0]
    np.testing.assert_allclose(more["losses"], one["losses"], rtol=1e-5)
    for key, value in one["end"].items():
        moved = np.linalg.norm(value - one["start"][key])
        assert moved > 1e-3
        assert np.linalg.norm(more["end"][key] - value) < 1e-2 * moved, key


def run_tower(engine: Engine, batch: Batch, scale: float) -> TowerPass:
    emb = engine.model.module.embed(batch)
    return TowerPass.run(engine, batch, emb, Observers(), micro_batches=2, scale=scale)


def overflow(world: World, experiment: Experiment, run_dir: str) -> dict[str, Any]:
    """A scaled step that overflows on the last rank only, then one that does not."""
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    trainer = Trainer(engine, run_dir)
    batch = next(iter(trainer._loader))
    before = [p.detach().clone() for p in engine.model.parameters()]
    engine.optimizers.begin_step(0, 1.0, 0.0)

    def moved(scale: float, ruin: bool) -> tuple[bool, bool]:
        engine.optimizers.zero_grad()
        done = run_tower(engine, batch, scale)
        if ruin and world.rank == world.size - 1:
            next(iter(done._grads.values())).view(-1)[0] = torch.inf
        finite = done.finish()
        if finite:
            engine.optimizers.step()
        now = list(engine.model.parameters())
        return finite, any(not torch.equal(a, b) for a, b in zip(before, now, strict=True))

    return {"bad": moved(1024.0, True), "good": moved(1024.0, False)}


def test_an_overflow_on_one_worker_skips_the_step_on_all(data, tmp_path):
    experiment = experiment_for(data, "adagrad", ShardingConfig(default="row_wise"))
    for rank in run_ranks(overflow, 2, experiment, str(tmp_path)):
        assert rank == {"bad": (False, False), "good": (True, True)}


def test_a_scaled_loss_gives_the_same_gradients(data, tmp_path):
    one = run_ranks(
        scaled, 1, in_micro_batches(experiment_for(data, "sgd", ShardingConfig()), 2), 1.0
    )[0]
    other = run_ranks(
        scaled, 1, in_micro_batches(experiment_for(data, "sgd", ShardingConfig()), 2), 2.0**9
    )
    np.testing.assert_allclose(other[0], one, rtol=1e-5, atol=1e-9)


def scaled(world: World, experiment: Experiment, scale: float) -> np.ndarray:
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    batch = next(iter(Trainer(engine, "unused")._loader))
    assert run_tower(engine, batch, scale).finish()
    return torch.cat([p.grad.flatten() for p in engine.tower.parameters()]).numpy()


def test_loss_scale_halves_doubles_and_survives_json():
    scale = LossScale(value=8.0, patience=3)
    for finite in (True, True, False, True, True, True):
        scale.update(finite)
    assert (scale.value, scale.steps) == (8.0, 0)
    scale.update(True)
    again = LossScale()
    again.load_state_dict(json.loads(json.dumps(scale.state_dict())))
    assert (again.value, again.steps) == (8.0, 1)


def parity(world: World, experiment: Experiment, run_dir: str) -> dict[str, Any]:
    """Trains to the end; AUC on test, and the dtype of the tables."""
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    summary = Trainer(engine, run_dir).fit()
    dtypes = {str(part.dtype) for _, part, _, _ in table_parts(engine.model)}
    return {"auc": summary["test"]["auc"], "dtypes": dtypes}


def test_half_tables_and_half_communication_cost_no_auc(data, tmp_path):
    plain = experiment_for(data, "adagrad", ShardingConfig(default="row_wise"))
    half = replace(
        plain.sharding, tables_dtype="float16", forward_comm="float16", backward_comm="float16"
    )
    one = run_ranks(parity, 2, plain, str(tmp_path / "a"))[0]
    other = run_ranks(parity, 2, replace(plain, sharding=half), str(tmp_path / "b"))[0]
    assert (one["dtypes"], other["dtypes"]) == ({"torch.float32"}, {"torch.float16"})
    assert one["auc"] > 0.6
    assert other["auc"] != one["auc"]  # it did compute something else
    assert abs(other["auc"] - one["auc"]) < 5e-3


def test_half_gradients_are_sent_as_such(data, tmp_path):
    plain = experiment_for(data, "sgd", ShardingConfig(default="table_wise"))
    half = replace(plain, sharding=replace(plain.sharding, backward_comm="float16"))
    one = run_ranks(steps, 2, plain, str(tmp_path / "a"), 2)[0]
    other = run_ranks(steps, 2, half, str(tmp_path / "b"), 2)[0]
    assert other["losses"][0] == one["losses"][0]  # forward is exact
    difference = other["end"]["tokens/C0"] - one["end"]["tokens/C0"]
    moved = np.linalg.norm(one["end"]["tokens/C0"] - one["start"]["tokens/C0"])
    assert 0 < np.linalg.norm(difference) < 1e-2 * moved
