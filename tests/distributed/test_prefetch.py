"""Steps with prefetching equal steps without."""

import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ctrdist.checkpoint.store import complete, read
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
from ctrdist.errors import ConfigError
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.models.dual_attention.settings import DualAttentionConfig
from ctrdist.sharding.shard import table_parts
from ctrdist.training.build import build_engine
from ctrdist.training.loop.prefetch import Prefetcher
from ctrdist.training.loop.trainer import Trainer
from ctrdist.training.observe.observers import Observer, Stepped
from tests.datasets import write_dataset
from tests.ranks import kill_ranks, run_ranks

DLF = DLFConfig(embedding_dim=8, num_layers=1, tokens_per_block=4, rank=3, hidden_dim=16)
DEA_R = DualAttentionConfig(embedding_dim=8, combo=True, frequency=False)
STEPS_PER_EPOCH = 16  # 1,999 rows in steps of 128


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 1999, "valid": 300}, multi_valued=True)
    return str(path)


@pytest.fixture(scope="module")
def plain_row_wise(data, tmp_path_factory) -> list[dict]:
    """A run of DLF on two workers without prefetching."""
    experiment = experiment_for(data, DLF, "none", "row_wise")
    return run_ranks(train, 2, experiment, str(tmp_path_factory.mktemp("plain")))


def experiment_for(
    data: str, model: Any, pipeline: str, kind: str, micro_batches: int = 1
) -> Experiment:
    name = "dlf" if isinstance(model, DLFConfig) else "dual_attention"
    return Experiment(
        model_name=name,
        data=data,
        run_name="run",
        model=model,
        loader=LoaderConfig(batch_size=128, accumulate=micro_batches),
        optim=OptimConfig(tables=TableOptimConfig(name="adagrad")),
        sharding=ShardingConfig(default=kind, shared_memory=False),
        train=TrainConfig(epochs=2, pipeline=pipeline, embedding_init_std=0.1),
        checkpoint=CheckpointConfig(every_steps=5),
        tracking=TrackingConfig(mlflow=False),
    )


class Kill(Observer):
    """Kills this process after a step."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step(self, event: Stepped) -> None:
        if event.progress.step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def train(world: World, experiment: Experiment, run_dir: str, kill_after: int = -1) -> dict:
    """Trains; gives losses, rows and prefetched batches of each step, and all weights."""
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    trainer = Trainer(engine, run_dir, [Kill(kill_after)])
    step, taken, under_way = trainer.step.take, [], []

    def recorded(batch):
        sent = trainer.prefetcher._sent is not None
        loss, norm = step(batch)
        under_way.append((sent, trainer.prefetcher._prepared is not None))
        taken.append((trainer.progress.step, loss, norm, batch.row_B.tolist()))
        return loss, norm

    trainer.step.take = recorded  # type: ignore[method-assign]
    summary = trainer.fit()
    weights = {name: p.detach().numpy().copy() for name, p in engine.tower.state_dict().items()}
    parts = table_parts(engine.model)
    weights.update({f"{t}@{row},{column}": part.numpy().copy() for t, part, row, column in parts})
    valid = summary["valid"]
    return {"taken": taken, "under_way": under_way, "weights": weights, "valid": valid}


def same(one: dict, other: dict) -> None:
    assert one["taken"] == other["taken"]
    assert one["valid"] == other["valid"]
    for name, value in other["weights"].items():
        np.testing.assert_array_equal(one["weights"][name], value, err_msg=name)


@pytest.mark.parametrize(
    ("model", "kind", "micro_batches", "workers"),
    [
        pytest.param(DLF, "table_wise", 3, 2, marks=pytest.mark.slow),
        pytest.param(DEA_R, "auto", 1, 2, marks=pytest.mark.slow),
        (DLF, "data_parallel", 1, 1),
    ],
)
def test_weights_are_bit_equal(data, tmp_path, model, kind, micro_batches, workers):
    plain, ahead = (
        run_ranks(train, workers, experiment, str(tmp_path / experiment.train.pipeline))
        for experiment in (
            experiment_for(data, model, name, kind, micro_batches)
            for name in ("none", "sparse_dist")
        )
    )
    assert_prefetched(ahead, plain)


def test_weights_are_bit_equal_with_tables_by_rows(data, plain_row_wise, tmp_path):
    experiment = experiment_for(data, DLF, "sparse_dist", "row_wise")
    assert_prefetched(run_ranks(train, 2, experiment, str(tmp_path)), plain_row_wise)


def assert_prefetched(ahead: list[dict], plain: list[dict]) -> None:
    """The same steps and weights, but each step had the ids of the next one sent."""
    for one, other in zip(ahead, plain, strict=True):
        same(one, other)
    # a step's ids have been sent when it begins, and the next batch is prepared when it ends
    epoch = [*[(True, True)] * 15, (True, False)]
    assert ahead[0]["under_way"] == [*epoch, *epoch]
    assert plain[0]["under_way"] == [(False, False)] * 32


def test_a_prefetched_batch_is_not_yet_consumed(data, plain_row_wise, tmp_path):
    experiment = experiment_for(data, DLF, "sparse_dist", "row_wise")
    killed_at = STEPS_PER_EPOCH + 8
    codes = kill_ranks(train, 2, experiment, str(tmp_path / "b"), killed_at)
    assert codes[0] == -signal.SIGKILL
    newest = complete(tmp_path / "b" / "checkpoints")[-1]
    saved = read(newest)
    assert STEPS_PER_EPOCH < saved.step <= killed_at
    assert saved.state["loader"]["consumed"] == (saved.step - STEPS_PER_EPOCH) * 128
    resumed = run_ranks(train, 2, experiment, str(tmp_path / "b"))
    for one, other in zip(resumed, plain_row_wise, strict=True):
        same(one, {**other, "taken": other["taken"][saved.step :]})


def refusal(world: World, experiment: Experiment) -> str:
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    with pytest.raises(ConfigError) as error:
        Prefetcher(engine)
    return str(error.value)


def test_prefetching_is_refused_with_shared_memory(tmp_path):
    write_dataset(tmp_path, {"train": 100})
    experiment = experiment_for(str(tmp_path), DLF, "sparse_dist", "row_wise")
    shared = replace(experiment, sharding=replace(experiment.sharding, shared_memory=True))
    assert "sharding.shared_memory" in run_ranks(refusal, 1, shared)[0]
