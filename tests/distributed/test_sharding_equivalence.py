"""Tables sharded over two workers train like the same model in plain PyTorch in one process."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.nn import functional
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from ctrdist.batch import COMPLEX_LOGITS, SIMPLE_LOGITS, Batch, Output
from ctrdist.config.experiment import (
    Experiment,
    LoaderConfig,
    ShardingConfig,
    TrainConfig,
    experiment_of,
)
from ctrdist.config.losses import LossConfig
from ctrdist.config.optimizers import DenseOptimConfig, OptimConfig, TableOptimConfig
from ctrdist.data.loader import Loader
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World, gather_rows
from ctrdist.models.ctr import padded_dim
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.models.tf4ctr.settings import TF4CTRConfig
from ctrdist.sharding.plan import table_weights
from ctrdist.sharding.shard import fill_table, table_parts
from ctrdist.training.build import build_engine, build_model
from ctrdist.training.loop.trainer import Trainer
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
MODELS = {
    "dlf": MODEL,
    "dlf mlp": replace(MODEL, fusion="mlp"),  # with batch normalisation of its own
    "dlf attention_pool": replace(MODEL, fusion="attention_pool"),
    "dlf gate_pool": replace(MODEL, fusion="gate_pool"),
    # three tables per field, of widths 4, 8 and 1: the last is padded
    "tf4ctr": TF4CTRConfig(
        simple="fm", embedding_dim=8, complex_hidden_dims=(16, 8), fusion="cf", dropout=0.0
    ),
}
LOSSES = {"tf4ctr": LossConfig(name="twin_focus", gamma=2.0, c=0.8, alpha=0.3)}


def experiment_for(data: str, kind: str, optimizer: str, model: str = "dlf") -> Experiment:
    return experiment_of(model.split()[0], type(MODELS[model]))(
        data=data,
        model=MODELS[model],
        loss=LOSSES.get(model, LossConfig()),
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


def plain_loss(output: Output, batch: Batch, loss: LossConfig) -> torch.Tensor:
    """The mean loss of a step, written with the probability p of the label."""
    total = functional.binary_cross_entropy_with_logits(output.logits_B, batch.label_B)
    if loss.name == "twin_focus":
        sign = 2 * batch.label_B - 1
        simple, hard = (
            (sign * output.aux[name]).sigmoid() for name in (SIMPLE_LOGITS, COMPLEX_LOGITS)
        )
        total = total - loss.alpha * ((loss.c + simple) ** loss.gamma * simple.log()).mean()
        total = total - (1 - loss.alpha) * ((2 - loss.c - hard) ** loss.gamma * hard.log()).mean()
    return total


def train_plain(data: str, optimizer: str, model_name: str = "dlf") -> dict[str, Any]:
    """The same steps with torch.nn.EmbeddingBag and torch.optim: no sharding, no FBGEMM."""
    experiment = experiment_for(data, "auto", optimizer, model_name)
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
        loss = plain_loss(model(batch), batch, experiment.loss)
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


def train(
    world: World, data: str, run_dir: str, kind: str, optimizer: str, model: str = "dlf"
) -> dict[str, Any]:
    """Trains STEPS steps; gives losses, and weights before and after."""
    experiment = experiment_for(data, kind, optimizer, model)
    engine = build_engine(experiment, open_dataset(data), world)
    trainer = Trainer(engine, run_dir)
    start = weights(engine, world)
    losses = []
    loader = Loader(
        engine.dataset, "train", experiment.loader, seed=1, rank=world.rank, world_size=world.size
    )
    for _, batch in zip(range(STEPS), loader, strict=False):
        total, _ = trainer.step.take(batch)
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
    groups = engine.tower.groups | ({"wide": 4} if engine.model.module.wide else {})
    shapes = {
        f"{group}/{f.name}": (f.vocabulary_size, padded_dim(dim))
        for group, dim in groups.items()
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


KINDS = [
    ("table_wise", "rowwise_adagrad"),
    ("row_wise", "rowwise_adagrad"),
    ("table_row_wise", "rowwise_adagrad"),
    ("column_wise", "adagrad"),  # with row-wise state, part of the columns is another algorithm
    ("row_wise", "adagrad"),
    ("column_wise", "sgd"),
    ("data_parallel", "adam"),
    ("data_parallel", "rowwise_adagrad"),
    ("data_parallel", "adagrad"),
    ("data_parallel", "sgd"),
]
ONE_WORKER = [("row_wise", "rowwise_adagrad"), ("data_parallel", "adam")]


@pytest.mark.parametrize(
    ("kind", "optimizer", "workers"),
    [
        *((*kind, 2) for kind in KINDS),
        *((*kind, 1) for kind in ONE_WORKER),
        *(
            pytest.param(*kind, 1, marks=pytest.mark.slow)
            for kind in KINDS
            if kind not in ONE_WORKER
        ),
    ],
)
def test_sharded_equals_unsharded(data, unsharded, tmp_path, kind, optimizer, workers):
    sharded = run_ranks(train, workers, data, str(tmp_path), kind, optimizer)[0]
    assert_equal(sharded, unsharded[optimizer], kind)


def test_two_encoders_with_tables_of_their_own_train_like_unsharded_ones(data, tmp_path):
    expected = train_plain(data, "adagrad", "tf4ctr")
    sharded = run_ranks(train, 2, data, str(tmp_path), "row_wise", "adagrad", "tf4ctr")[0]
    assert {name.split("/")[0] for name in expected["start"]} == {"tower", "easy", "hard", "linear"}
    assert_equal(sharded, expected, "row_wise")


@pytest.mark.parametrize("fusion", ["mlp", "attention_pool", "gate_pool"])
def test_every_fusion_trains_like_an_unsharded_one(data, tmp_path, fusion):
    expected = train_plain(data, "adagrad", f"dlf {fusion}")
    sharded = run_ranks(train, 2, data, str(tmp_path), "row_wise", "adagrad", f"dlf {fusion}")[0]
    # the mlp's wide sums over all tokens part in their rounding a step sooner
    assert_equal(sharded, expected, "row_wise", alike=2 if fusion == "mlp" else 3)


def assert_equal(
    sharded: dict[str, Any], expected: dict[str, Any], kind: str, alike: int = 3
) -> None:
    """The same losses, equal to rounding for some steps, and weights that moved alike."""
    assert sharded["kinds"] == [kind]
    losses = expected["losses"]
    assert (
        losses[-4:].mean() < losses[:4].mean() - 0.02
    )  # it has learnt, so the comparison means something
    # The same sums in another order: equal to rounding at first, which training then amplifies.
    np.testing.assert_allclose(sharded["losses"][:alike], losses[:alike], rtol=5e-6)
    np.testing.assert_allclose(sharded["losses"], losses, rtol=5e-4)
    for name, start in expected["start"].items():
        np.testing.assert_array_equal(sharded["start"][name], start, err_msg=name)
        moved = np.linalg.norm(expected["end"][name] - start)
        assert moved > 1e-3
        assert np.linalg.norm(sharded["end"][name] - expected["end"][name]) < 0.05 * moved, name
