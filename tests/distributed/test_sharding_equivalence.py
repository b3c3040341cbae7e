"""Tables sharded over two workers train like the same model in plain PyTorch in one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.nn import functional
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from ctrdist.config.experiment import (
    DenseOptimConfig,
    Experiment,
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
from ctrdist.sharding.plan import table_weights
from ctrdist.sharding.shard import fill_table, table_parts
from ctrdist.training.build import build_engine, build_model
from ctrdist.training.callbacks import Callback
from ctrdist.training.trainer import Trainer
from tests.datasets import write_dataset
from tests.ranks import run_ranks

STEPS = 20
L2 = {"adam": 1e-3, "rowwise_adagrad": 0.0, "adagrad": 0.0, "sgd": 0.0}
PLAIN = {
    "adam": torch.optim.Adam,
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}
MODEL = DLFConfig(
    embedding_dim=8,
    num_layers=2,
    tokens_per_block=4,
    rank=3,
    hidden_dim=16,
    attention_layers=1,
    attention_heads=2,
)


def experiment_for(data: str, kind: str, optimizer: str) -> Experiment:
    return experiment_of("dlf", DLFConfig)(
        data=data,
        model=MODEL,
        loader=LoaderConfig(batch_size=511),  # odd: the workers' shares differ
        # With Adam's usual eps a gradient that is zero but for rounding, such as a bias's before
        # batch normalisation, moves its weight by the learning rate: rounding would grow, and the
        # comparison say nothing.
        optim=OptimConfig(
            tables=TableOptimConfig(name=optimizer, lr=0.02, eps=1e-2, l2=L2[optimizer]),
            dense=DenseOptimConfig(eps=1e-2, l2=1e-3),
            max_grad_norm=0.5,
        ),
        sharding=ShardingConfig(default=kind),
        train=TrainConfig(embedding_init_std=1.0),
    )


def train_plain(data: str, optimizer: str) -> dict[str, Any]:
    """The same steps with torch.nn.EmbeddingBag and torch.optim: no sharding, no FBGEMM."""
    experiment = experiment_for(data, "auto", optimizer)
    dataset = open_dataset(data)
    model = build_model(experiment, dataset.schema)
    model.tables.to_empty(device="cpu")
    tables = dict(table_weights(model))
    for name, weight in tables.items():
        shape = (weight.shape[0], weight.shape[1])
        fill_table(weight.data, name, 0, 0, shape, seed=experiment.train.seed, std=1.0)
    rest = [p for name, p in model.named_parameters() if not name.startswith("tables.")]
    settings = {"lr": 0.02} if optimizer == "sgd" else {"lr": 0.02, "eps": 1e-2}
    table_optimizer = PLAIN[optimizer](tables.values(), **settings)
    dense_optimizer = torch.optim.Adam(rest, lr=1e-3, eps=1e-2)

    def state() -> dict[str, np.ndarray]:
        tower = np.concatenate([p.detach().numpy().ravel() for p in model.tower.parameters()])
        return {"tower": tower, **{n: w.detach().numpy().copy() for n, w in tables.items()}}

    start, losses = state(), []
    loader = Loader(dataset, "train", experiment.loader, seed=1)
    for _, batch in zip(range(STEPS), loader, strict=False):
        loss = functional.binary_cross_entropy_with_logits(model(batch).logits_B, batch.label_B)
        table_optimizer.zero_grad()
        dense_optimizer.zero_grad()
        (loss + 5e-4 * sum(p.square().sum() for p in rest)).backward()
        for weight in tables.values():
            weight.grad.add_(weight.detach(), alpha=L2[optimizer])
        clipped = [*rest, *tables.values()] if optimizer == "adam" else rest
        torch.nn.utils.clip_grad_norm_(clipped, 0.5)
        table_optimizer.step()
        dense_optimizer.step()
        losses.append(float(loss.detach()))
    return {"losses": np.array(losses), "start": start, "end": state()}


def train(world: World, data: str, run_dir: str, kind: str, optimizer: str) -> dict[str, Any]:
    """Trains STEPS steps; gives losses, and weights before and after."""
    experiment = experiment_for(data, kind, optimizer)
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
def unsharded(data) -> dict[str, dict[str, Any]]:
    """One process, plain PyTorch, per optimiser."""
    return {name: train_plain(data, name) for name in PLAIN}


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
        ("data_parallel", "rowwise_adagrad"),
        ("data_parallel", "adagrad"),
        ("data_parallel", "sgd"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_sharded_equals_unsharded(data, unsharded, tmp_path, kind, optimizer, workers):
    sharded = run_ranks(train, workers, data, str(tmp_path), kind, optimizer)[0]
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
