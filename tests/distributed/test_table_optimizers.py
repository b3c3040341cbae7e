"""Tables follow one algorithm, rate and schedule, however they are laid over the workers."""

import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ctrdist.config.experiment import (
    CheckpointConfig,
    Experiment,
    LoaderConfig,
    ShardingConfig,
    TrackingConfig,
    TrainConfig,
)
from ctrdist.config.optimizers import (
    DenseOptimConfig,
    OptimConfig,
    ScheduleConfig,
    TableOptimConfig,
)
from ctrdist.data.loader import Loader
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World
from ctrdist.training.build import build_engine
from ctrdist.training.loop.trainer import Trainer
from tests.datasets import write_dataset
from tests.distributed.test_resume import MODEL, Journal
from tests.distributed.test_sharding_equivalence import weights
from tests.ranks import kill_ranks, run_ranks

STEPS = 12
SCHEDULE = ScheduleConfig(warmup_steps=5, decay="cosine", decay_steps=20, floor=0.1)


def experiment_for(data: str, name: str, sharding: ShardingConfig, **optim: Any) -> Experiment:
    return Experiment(
        model_name="dlf",
        data=data,
        run_name="run",
        model=MODEL,
        loader=LoaderConfig(batch_size=128, shuffle_rows=500),
        optim=OptimConfig(
            tables=TableOptimConfig(name=name, lr=0.05, eps=1e-2),
            dense=DenseOptimConfig(eps=1e-2, **optim),
            schedule=SCHEDULE,
        ),
        sharding=sharding,
        train=TrainConfig(epochs=2, seed=5, embedding_init_std=0.5),
        checkpoint=CheckpointConfig(every_steps=5, keep=2),
        tracking=TrackingConfig(mlflow=False),
    )


def steps(world: World, experiment: Experiment, run_dir: str, number: int) -> dict[str, Any]:
    """Some steps; losses, rates and weights."""
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    trainer = Trainer(engine, run_dir)
    loader = Loader(
        engine.dataset, "train", experiment.loader, seed=1, rank=world.rank, world_size=world.size
    )
    losses, rates, start = [], [], weights(engine, world)
    for _, batch in zip(range(number), loader, strict=False):
        total, _ = trainer.step.take(batch)
        losses.append(float(total) / batch.global_size)
        rates.append(engine.optimizers.learning_rates)
        trainer.progress.step += 1
    kinds = {shard.table: shard.kind for shard in engine.layout.shards}
    end = weights(engine, world)
    return {
        "losses": losses,
        "rates": rates,
        "start": start,
        "end": end,
        "kinds": kinds,
        "plan": engine.layout.to_json(),
    }


def fit(world: World, experiment: Experiment, run_dir: str, kill_after: int) -> dict[str, Any]:
    """A whole run, or one that is killed after a step; the rows' order and the last weights."""
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    trainer = Trainer(engine, run_dir, Journal(kill_after))
    taken, step = [], trainer.step.take

    def recorded(batch):
        taken.append(trainer.progress.step)
        return step(batch)

    trainer.step.take = recorded  # type: ignore[method-assign]
    trainer.fit()
    return {"steps": taken, "weights": weights(engine, world)}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 1999, "valid": 300, "test": 300})
    return str(path)


def test_copies_and_shards_follow_one_schedule(data, tmp_path):
    sharded = experiment_for(data, "rowwise_adagrad", ShardingConfig(default="row_wise"))
    mixed = replace(
        sharded,
        sharding=ShardingConfig(default="row_wise", tables={"tokens/C1": "data_parallel"}),
    )
    fused = run_ranks(steps, 2, sharded, str(tmp_path / "a"), STEPS)[0]
    copied = run_ranks(steps, 2, mixed, str(tmp_path / "b"), STEPS)[0]
    assert copied["kinds"]["tokens/C1"] == "data_parallel"
    assert copied["kinds"]["tokens/C0"] == "row_wise"
    assert copied["rates"] == fused["rates"]
    shares = [rate["tables"] / 0.05 for rate in fused["rates"]]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shares[5] == pytest.approx(1) and shares[11] < 0.9
    assert [r["dense"] / 0.001 for r in fused["rates"]] == pytest.approx(shares)
    np.testing.assert_allclose(copied["losses"], fused["losses"], rtol=1e-5)
    for name, value in fused["end"].items():
        moved = np.linalg.norm(value - fused["start"][name])
        assert np.linalg.norm(copied["end"][name] - value) < 1e-3 * moved, name


def test_a_grid_trains_like_rows_and_its_saved_plan_gives_the_same_run(data, tmp_path):
    rows = experiment_for(data, "adagrad", ShardingConfig(default="row_wise"))
    grid = replace(rows, sharding=ShardingConfig(default="grid_shard"))
    one = run_ranks(steps, 2, rows, str(tmp_path / "a"), STEPS)[0]
    other = run_ranks(steps, 2, grid, str(tmp_path / "b"), STEPS)[0]
    assert set(other["kinds"].values()) == {"grid_shard"}
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
    (tmp_path / "plan.json").write_text(other["plan"])
    saved = replace(rows, sharding=ShardingConfig(plan_file=str(tmp_path / "plan.json")))
    again = run_ranks(steps, 2, saved, str(tmp_path / "c"), STEPS)[0]
    assert again["kinds"] == other["kinds"] and again["losses"] == other["losses"]
    for key, value in other["end"].items():
        np.testing.assert_array_equal(again["end"][key], value, err_msg=key)


def test_rates_reach_the_kernels(data, tmp_path):
    """At a rate of zero nothing moves, in tables and tower."""
    still = experiment_for(data, "sgd", ShardingConfig(default="table_wise"))
    stops = ScheduleConfig(decay="step", decay_steps=2, step_factor=0.0)
    still = replace(still, optim=replace(still.optim, schedule=stops))
    two = run_ranks(steps, 1, still, str(tmp_path / "a"), 2)[0]
    five = run_ranks(steps, 1, still, str(tmp_path / "b"), 5)[0]
    for name in two["end"]:
        assert not np.array_equal(two["end"][name], two["start"][name])
        np.testing.assert_array_equal(five["end"][name], two["end"][name])


def test_dense_weight_decay_is_decoupled(data, tmp_path):
    plain = experiment_for(data, "sgd", ShardingConfig())
    decayed = experiment_for(data, "sgd", ShardingConfig(), weight_decay=0.5)
    one = run_ranks(steps, 1, plain, str(tmp_path), 1)[0]
    other = run_ranks(steps, 1, decayed, str(tmp_path), 1)[0]
    lr = one["rates"][0]["dense"]
    difference = torch.from_numpy(one["end"]["tower"] - other["end"]["tower"])
    expected = torch.from_numpy(one["start"]["tower"]) * lr * 0.5
    torch.testing.assert_close(difference, expected, atol=1e-6, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"), [("data_parallel", "row_wise"), ("row_wise", "data_parallel")]
)
@pytest.mark.parametrize("name", ["rowwise_adagrad", "adagrad"])
def test_a_run_goes_on_between_copies_and_shards(data, tmp_path, name, before, after):
    first = experiment_for(data, name, ShardingConfig(default=before))
    second = experiment_for(data, name, ShardingConfig(default=after))
    undisturbed = run_ranks(fit, 2, second, str(tmp_path / "a"), -1)[0]
    assert kill_ranks(fit, 2, first, str(tmp_path / "b"), 24)[0] == -signal.SIGKILL
    resumed = run_ranks(fit, 2, second, str(tmp_path / "b"), -1)[0]
    assert resumed["steps"][0] == 20 and undisturbed["steps"][0] == 0
    for key, value in undisturbed["weights"].items():
        close = np.linalg.norm(resumed["weights"][key] - value) / np.linalg.norm(value)
        assert close < 2e-3, key


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["row_wise", "data_parallel"])
def test_a_schedule_goes_on_exactly(data, tmp_path, kind):
    experiment = experiment_for(data, "rowwise_adagrad", ShardingConfig(default=kind))
    undisturbed = run_ranks(fit, 2, experiment, str(tmp_path / "a"), -1)[0]
    assert kill_ranks(fit, 2, experiment, str(tmp_path / "b"), 8)[0] == -signal.SIGKILL
    resumed = run_ranks(fit, 2, experiment, str(tmp_path / "b"), -1)[0]
    assert resumed["steps"][0] == 5
    for key, value in undisturbed["weights"].items():
        np.testing.assert_array_equal(resumed["weights"][key], value, err_msg=key)
