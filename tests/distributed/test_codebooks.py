"""Codebooks of pairs over one and two workers train like plain PyTorch in one process."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.nn import functional
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from ctrdist.checkpoint.store import CheckpointStore, Texts, load_tensors, read
from ctrdist.config.experiment import (
    CheckpointConfig,
    Experiment,
    LoaderConfig,
    ShardingConfig,
    TrainConfig,
)
from ctrdist.config.optimizers import DenseOptimConfig, OptimConfig, TableOptimConfig
from ctrdist.data.counts import read_counts
from ctrdist.data.loader import Loader
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World, gather_rows
from ctrdist.models.dual_attention.settings import DualAttentionConfig
from ctrdist.sharding.cpu.kernel import KernelLookup
from ctrdist.sharding.plan import table_weights
from ctrdist.sharding.shard import fill_table, table_parts
from ctrdist.sharding.torchrec_internals import table_groups
from ctrdist.training.build import Engine, build_engine, build_model
from ctrdist.training.loop.trainer import Trainer
from ctrdist.training.observe.abundance import abundances, refresh_abundance
from tests.datasets import write_counts, write_dataset
from tests.ranks import run_ranks

STEPS = 12
ROWS = 61
"""Rows of each codebook: few, so that pairs collide and a row gets gradients of many."""
PLAIN = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
}


def experiment_for(
    data: str,
    kind: str,
    optimizer: str,
    accumulate: int = 1,
    cpu_kernel: bool = True,
    **settings: Any,
) -> Experiment:
    model = DualAttentionConfig(
        embedding_dim=8,
        num_layers=2,
        hidden_dims=(16,),
        batch_norm=False,
        codebook_rows=ROWS,
        codebook_dim=8,
        codebook_init_std=1.0,
        **settings,
    )
    return Experiment(
        model_name="dual_attention",
        data=data,
        model=model,
        loader=LoaderConfig(batch_size=511, accumulate=accumulate),  # odd: shares differ
        optim=OptimConfig(
            tables=TableOptimConfig(name=optimizer, lr=0.02, eps=1e-2),
            dense=DenseOptimConfig(eps=1e-2),
            max_grad_norm=0.0,
        ),
        sharding=ShardingConfig(default=kind, cpu_kernel=cpu_kernel),
        train=TrainConfig(embedding_init_std=1.0),
    )


def train_plain(
    data: str, optimizer: str, codebooks: TableOptimConfig | None = None
) -> dict[str, Any]:
    """The same steps with torch.nn.Embedding and torch.optim: no sharding, no FBGEMM."""
    experiment = experiment_for(data, "auto", optimizer)
    own = codebooks or experiment.optim.tables
    dataset = open_dataset(data)
    model = build_model(experiment, dataset.schema)
    assert model.frequency is not None and model.pairs is not None
    counts = read_counts(dataset)
    model.frequency.fill(counts.ends, counts.mean, counts.std, counts.of_all)
    model.tables.to_empty(device="cpu")
    model.pairs.codebooks.to_empty(device="cpu")
    tables = dict(table_weights(model))
    seed = experiment.train.seed
    for name, weight in tables.items():
        shape = (weight.shape[0], weight.shape[1])
        padding = not name.startswith("codebook/")
        fill_table(
            weight.data, name, 0, 0, shape, seed=seed, std=1.0, zeros=(0,) if padding else ()
        )
    rest = [p for p in model.parameters() if all(p is not w for w in tables.values())]
    hashed = [weight for name, weight in tables.items() if "codebook" in name]
    fields = [weight for name, weight in tables.items() if "codebook" not in name]
    optimizers = [
        PLAIN[optimizer](fields, lr=0.02, eps=1e-2),
        PLAIN[own.name](hashed, lr=own.lr, eps=own.eps, weight_decay=own.l2),
        torch.optim.Adam(rest, lr=1e-3, eps=1e-2),
    ]
    start = {name: weight.detach().numpy().copy() for name, weight in tables.items()}
    losses = []
    for _, batch in zip(
        range(STEPS), Loader(dataset, "train", experiment.loader, seed=1), strict=False
    ):
        loss = functional.binary_cross_entropy_with_logits(model(batch).logits_B, batch.label_B)
        for one in optimizers:
            one.zero_grad()
        loss.backward()
        for one in optimizers:
            one.step()
        losses.append(float(loss.detach()))
    end = {name: weight.detach().numpy() for name, weight in tables.items()}
    return {"losses": np.array(losses), "start": start, "end": end}


def train(world: World, run_dir: str, experiment: Experiment) -> dict[str, Any]:
    """Trains STEPS steps; gives losses, and the tables before and after."""
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    trainer = Trainer(engine, run_dir)
    start, losses = whole_tables(engine, world), []
    loader = Loader(
        engine.dataset, "train", experiment.loader, seed=1, rank=world.rank, world_size=world.size
    )
    for _, batch in zip(range(STEPS), loader, strict=False):
        total, _ = trainer.step.take(batch)
        losses.append(float(total) / batch.global_size)
        trainer.progress.step += 1
    kinds = {s.kind for s in engine.layout.shards if s.table.startswith("codebook/")}
    end = whole_tables(engine, world)
    held = [m.emb_module.forward for m in table_groups(engine.model) if _is_group(m)]
    ours = sum(isinstance(forward, KernelLookup) for forward in held)
    return {"losses": np.array(losses), "kinds": kinds, "start": start, "end": end, "ours": ours}


def _is_group(module: torch.nn.Module) -> bool:
    return isinstance(module, BatchedFusedEmbedding)


def whole_tables(engine: Engine, world: World) -> dict[str, np.ndarray]:
    """All tables, put together from all ranks' parts."""
    shapes: dict[str, tuple[int, int]] = {}
    for shard in engine.layout.shards:
        rows, columns = shapes.get(shard.table, (0, 0))
        shapes[shard.table] = (max(rows, sum(shard.rows)), max(columns, sum(shard.columns)))
    copied = {s.table for s in engine.layout.shards if s.kind == "data_parallel"}
    whole = {table: torch.zeros(shape) for table, shape in shapes.items()}
    for table, part, row, column in table_parts(engine.model):
        whole[table][row : row + part.shape[0], column : column + part.shape[1]] = part
    result = {}
    for table, mine in whole.items():
        gathered = gather_rows(mine.reshape(-1))
        if gathered is not None:
            parts = gathered.view(world.size, *shapes[table])
            if table in copied:
                assert all(torch.equal(part, parts[0]) for part in parts[1:])
            result[table] = (parts[0] if table in copied else parts.sum(0)).numpy()
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_counts(write_dataset(path, {"train": 6_200}, multi_valued=True))
    return str(path)


@pytest.fixture(scope="module")
def unsharded(data) -> dict[str, dict[str, Any]]:
    return {name: train_plain(data, name) for name in PLAIN}


@pytest.mark.parametrize(
    ("kind", "optimizer", "workers", "settings"),
    [
        ("table_wise", "adagrad", 1, {}),
        ("row_wise", "rowwise_adagrad", 2, {}),
        ("table_wise", "rowwise_adagrad", 2, {}),
        ("column_wise", "adagrad", 2, {}),
        ("data_parallel", "adagrad", 2, {}),
        ("data_parallel", "adam", 2, {}),
        ("row_wise", "adagrad", 2, {"recompute_lookups": True}),
        ("row_wise", "adagrad", 2, {"accumulate": 3}),
        ("row_wise", "rowwise_adagrad", 2, {"cpu_kernel": False}),
    ],
)
def test_sharded_equals_unsharded(data, unsharded, tmp_path, kind, optimizer, workers, settings):
    experiment = experiment_for(data, kind, optimizer, **settings)
    sharded = run_ranks(train, workers, str(tmp_path), experiment)[0]
    expected = unsharded[optimizer]
    assert sharded["kinds"] == {kind}
    if kind == "row_wise":
        assert sharded["ours"] == (2 if experiment.sharding.cpu_kernel else 0)
    losses = expected["losses"]
    assert losses[-3:].mean() < losses[:3].mean() - 0.01  # it has learnt
    np.testing.assert_allclose(sharded["losses"][:3], losses[:3], rtol=1e-5)
    np.testing.assert_allclose(sharded["losses"], losses, rtol=5e-4)
    for name, start in expected["start"].items():
        np.testing.assert_array_equal(sharded["start"][name], start, err_msg=name)
        moved = np.linalg.norm(expected["end"][name] - start)
        assert moved > 1e-3
        assert np.linalg.norm(sharded["end"][name] - expected["end"][name]) < 0.05 * moved, name


@pytest.mark.parametrize(
    ("kind", "optimizer", "codebooks", "layout"),
    [
        ("auto", "adam", {"name": "adam", "lr": 0.01, "l2": 0.3}, {"data_parallel"}),
        ("auto", "adam", {"name": "rowwise_adagrad", "lr": 0.04}, {"row_wise", "table_wise"}),
        ("data_parallel", "adam", {"name": "adagrad", "lr": 0.04}, {"data_parallel"}),
        ("auto", "rowwise_adagrad", {"name": "adam", "lr": 0.01}, {"data_parallel"}),
        ("row_wise", "rowwise_adagrad", {"name": "adagrad", "lr": 0.06}, {"row_wise"}),
    ],
)
def test_codebooks_have_an_optimiser_of_their_own(
    data, tmp_path, kind, optimizer, codebooks, layout
):
    own = TableOptimConfig(eps=1e-2, **codebooks)
    experiment = experiment_for(data, kind, optimizer)
    experiment = replace(experiment, optim=replace(experiment.optim, codebooks=own))
    sharded = run_ranks(train, 2, str(tmp_path), experiment)[0]
    expected = train_plain(data, optimizer, own)
    assert sharded["kinds"] <= layout
    for name, start in expected["start"].items():
        moved = np.linalg.norm(expected["end"][name] - start)
        assert np.linalg.norm(sharded["end"][name] - expected["end"][name]) < 0.05 * moved, name


def test_half_precision_in_store_and_between_workers(data, unsharded, tmp_path):
    experiment = experiment_for(data, "row_wise", "rowwise_adagrad")
    half = {"tables_dtype": "float16", "forward_comm": "float16", "backward_comm": "float16"}
    experiment = replace(experiment, sharding=replace(experiment.sharding, **half))
    losses = run_ranks(train, 2, str(tmp_path), experiment)[0]["losses"]
    np.testing.assert_allclose(losses, unsharded["rowwise_adagrad"]["losses"], rtol=2e-3)


def save(world: World, directory: str, experiment: Experiment) -> dict[str, np.ndarray]:
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    trainer = Trainer(engine, directory)
    loader = Loader(engine.dataset, "train", experiment.loader, rank=world.rank, world_size=2)
    trainer.step.take(next(iter(loader)))
    store = CheckpointStore(directory, CheckpointConfig())
    store.save(1, engine.tensors(), {}, Texts(config="{}", schema="{}", plan="{}"))
    store.wait()
    return {**whole_tables(engine, world), "state": state(engine)}


def load(world: World, directory: str, experiment: Experiment) -> dict[str, np.ndarray]:
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    with torch.no_grad():
        for _, part, _, _ in table_parts(engine.model):
            part.fill_(-1)
    load_tensors(read(directory).path, engine.tensors())
    return {**whole_tables(engine, world), "state": state(engine)}


def state(engine: Engine) -> np.ndarray:
    """Sum of the codebooks' Adagrad state on this rank, and the levels of the counts."""
    total = 0.0
    for name, state in engine.optimizers.tensors()["fused"].items():
        if "codebook/" in name:
            for value in state.values():
                shards = value.local_shards() if isinstance(value, ShardedTensor) else []
                total += sum(float(shard.tensor.double().sum()) for shard in shards)
    return np.array(total)


@pytest.mark.parametrize("own", [False, True])
def test_codebooks_load_on_another_number_of_workers_and_plan(data, tmp_path, own):
    def experiment_of(kind: str) -> Experiment:
        if not own:
            return experiment_for(data, kind, "adagrad")
        experiment = experiment_for(data, "auto", "adam")
        codebooks = TableOptimConfig(name="adagrad")
        return replace(
            experiment,
            optim=replace(experiment.optim, codebooks=codebooks),
            sharding=replace(experiment.sharding, tables={"codebook/0": kind, "codebook/1": kind}),
        )

    saved = run_ranks(save, 2, str(tmp_path), experiment_of("row_wise"))
    total = sum(float(rank["state"]) for rank in saved)
    assert total > 0
    for workers, kind in ((1, "table_wise"), (3, "row_wise")):
        loaded = run_ranks(load, workers, str(tmp_path), experiment_of(kind))
        for name, value in saved[0].items():
            if name != "state":
                np.testing.assert_array_equal(loaded[0][name], value, err_msg=name)
        assert sum(float(rank["state"]) for rank in loaded) == pytest.approx(total)


def measure(world: World, data: str, kind: str) -> tuple[dict[str, float], list[float]]:
    experiment = experiment_for(data, kind, "sgd", filter="information_abundance")
    engine = build_engine(experiment, open_dataset(data), world)
    refresh_abundance(engine)
    return abundances(engine), engine.tower.abundance_F.tolist()


@pytest.mark.parametrize(
    ("kind", "workers"), [("row_wise", 2), ("column_wise", 2), ("data_parallel", 2)]
)
def test_abundance_is_that_of_the_whole_tables(data, kind, workers):
    dataset = open_dataset(data)
    expected = {}
    for field in dataset.schema.categorical:
        whole, name = torch.zeros(field.vocabulary_size, 8), f"tokens/{field.name}"
        fill_table(whole, name, 0, 0, tuple(whole.shape), seed=TrainConfig().seed, std=1.0)
        sigma = torch.linalg.svdvals(whole[1:].double())
        expected[name] = float(sigma.sum() / sigma.max())
    shares = [1.0, 1.0]
    shares += [
        expected[f"tokens/{f.name}"] / min(f.vocabulary_size - 1, 8)
        for f in dataset.schema.categorical
    ]
    for found, shown in run_ranks(measure, workers, data, kind):
        assert found == pytest.approx(expected, rel=1e-6)
        assert shown == pytest.approx(shares, rel=1e-6)
