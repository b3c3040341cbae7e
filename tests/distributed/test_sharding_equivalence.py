"""Tables sharded over two workers train like the same model on one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor

from ctrdist.config.experiment import (
    DenseOptimConfig,
    LoaderConfig,
    OptimConfig,
    ShardingConfig,
    TableOptimConfig,
    TrainConfig,
    experiment_of,
)
from ctrdist.data.loader import Loader
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed import World, gather_rows
from ctrdist.models.configs import DLFConfig
from ctrdist.sharding.shard import table_parts
from ctrdist.training.build import build_engine
from ctrdist.training.callbacks import Callback
from ctrdist.training.trainer import Trainer
from tests.datasets import write_dataset
from tests.ranks import run_ranks

STEPS = 20
MODEL = DLFConfig(
    embedding_dim=8,
    num_layers=2,
    tokens_per_block=4,
    rank=3,
    hidden_dim=16,
    attention_layers=1,
    attention_heads=2,
)


def train(world: World, data: str, run_dir: str, kind: str, optimizer: str) -> dict[str, Any]:
    """Trains STEPS steps; gives losses, and weights before and after."""
    experiment = experiment_of("dlf", DLFConfig)(
        data=data,
        model=MODEL,
        loader=LoaderConfig(batch_size=511),  # odd: the workers' shares differ
        # With Adam's usual eps a gradient that is zero but for rounding, such as a bias's before
        # batch normalisation, moves its weight by the learning rate: rounding would grow, and the
        # comparison say nothing.
        optim=OptimConfig(
            tables=TableOptimConfig(name=optimizer, lr=0.02, eps=1e-2),
            dense=DenseOptimConfig(eps=1e-2),
        ),
        sharding=ShardingConfig(default=kind),
        train=TrainConfig(embedding_init_std=1.0),
    )
    engine = build_engine(experiment, open_dataset(data), world)
    trainer = Trainer(engine, run_dir, Callback())
    start = weights(engine, world)
    losses = []
    loader = Loader(
        engine.dataset, "train", experiment.loader, seed=1, rank=world.rank, world_size=world.size
    )
    for _, batch in zip(range(STEPS), loader, strict=False):
        total, _ = trainer.train_step(batch)
        losses.append(float(total) / batch.global_size)
        trainer.progress.step += 1
    end = weights(engine, world)
    kinds = sorted({shard.kind for shard in engine.layout.shards})
    return {"losses": np.array(losses), "kinds": kinds, "start": start, "end": end}


def weights(engine, world: World) -> dict[str, np.ndarray]:
    """The tower as one vector, and each table."""
    tower = np.concatenate([p.detach().numpy().ravel() for p in engine.tower.parameters()])
    return {"tower": tower, **whole_tables(engine, world)}


def whole_tables(engine, world: World) -> dict[str, np.ndarray]:
    """All tables, put together from all ranks' parts."""
    shapes = {
        f"tokens/{f.name}": (f.vocabulary_size, MODEL.embedding_dim)
        for f in engine.dataset.schema.categorical
    }
    parts = {}
    for table, part, row, column in table_parts(engine.model):
        whole = torch.zeros(shapes[table])
        whole[row : row + part.shape[0], column : column + part.shape[1]] = part
        parts[table] = parts.get(table, 0) + whole
    result = {}
    for table, shape in shapes.items():
        mine = parts.get(table, torch.zeros(shape)).reshape(-1)
        gathered = gather_rows(mine)
        if gathered is not None:
            copies = world.size if not isinstance(_state(engine, table), ShardedTensor) else 1
            result[table] = (gathered.view(world.size, *shape).sum(0) / copies).numpy()
    return result


def _state(engine, table: str):
    return next(
        v
        for k, v in engine.model.state_dict().items()
        if k.endswith(f"embedding_bags.{table}.weight")
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 10_300}, multi_valued=True)
    return str(path)


@pytest.fixture(scope="module")
def unsharded(data, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """One worker holds everything, per optimiser."""
    run_dir = str(tmp_path_factory.mktemp("run"))
    return {
        name: run_ranks(train, 1, data, run_dir, "auto", name)[0]
        for name in ("rowwise_adagrad", "adagrad", "sgd", "adam")
    }


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        ("table_wise", "rowwise_adagrad"),
        ("row_wise", "rowwise_adagrad"),
        ("table_row_wise", "rowwise_adagrad"),
        (
            "column_wise",
            "adagrad",
        ),  # row-wise state over a part of the columns is another algorithm
        ("row_wise", "adagrad"),
        ("column_wise", "sgd"),
        ("data_parallel", "adam"),
    ],
)
def test_two_workers_equal_one(data, unsharded, tmp_path, kind, optimizer):
    sharded = run_ranks(train, 2, data, str(tmp_path), kind, optimizer)[0]
    expected = unsharded[optimizer]
    assert sharded["kinds"] == [kind]
    losses = expected["losses"]
    assert (
        losses[-4:].mean() < losses[:4].mean() - 0.02
    )  # it has learnt, so the comparison means something
    # The same sums in another order: equal to rounding at first, which training then amplifies.
    np.testing.assert_allclose(sharded["losses"][:3], losses[:3], rtol=5e-6)
    np.testing.assert_allclose(sharded["losses"], losses, rtol=5e-4)
    for name, start in expected["start"].items():
        np.testing.assert_array_equal(sharded["start"][name], start, err_msg=name)
        moved = np.linalg.norm(expected["end"][name] - start)
        assert moved > 1e-3
        assert np.linalg.norm(sharded["end"][name] - expected["end"][name]) < 0.05 * moved, name
