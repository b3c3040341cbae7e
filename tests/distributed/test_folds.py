"""Cross-validation chooses a tower that gains on rows it has not seen, and no other."""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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
from ctrdist.config.optimizers import DenseOptimConfig, OptimConfig, TableOptimConfig
from ctrdist.data.loader import Loader
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World
from ctrdist.models.tf4ctr.settings import TF4CTRConfig
from ctrdist.training import run
from ctrdist.training.loop.folds import FoldRows, fold_of, select_rows
from ctrdist.training.observe import messages
from tests.datasets import write_counts, write_dataset
from tests.ranks import run_ranks


def write(path: Path, seed: int) -> str:
    """Rows with label 1 where an even id meets a number above 0, or an odd id one below.

    Every tenth label is wrong. Logistic regression can learn nothing of it.
    """
    dataset = write_dataset(path, {"train": 1500, "valid": 200, "test": 500}, multi_valued=True)
    write_counts(dataset)
    rng = np.random.default_rng(seed)
    for file in path.glob("*/part-*.parquet"):
        table = pq.read_table(file)
        odd = table["C1"].to_numpy() % 2 == 1
        wrong = rng.random(len(odd)) < 0.1
        at = table.schema.get_field_index("label")
        label = pa.array((odd ^ (table["I0"].to_numpy() > 0) ^ wrong).astype(np.float32))
        rows = pq.read_metadata(file).row_group(0).num_rows
        pq.write_table(
            table.set_column(at, table.schema.field(at), label), file, row_group_size=rows
        )
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("data"), 0)


def experiment_for(data: str, runs: Path, folds: int = 2) -> Experiment:
    return Experiment(
        model_name="tf4ctr",
        data=data,
        runs=str(runs),
        run_name="run",
        model=TF4CTRConfig(
            wide=True,
            embedding_dim=8,
            simple_hidden_dims=(16,),
            complex_hidden_dims=(32, 16),
            dropout=0.0,
            batch_norm=False,
        ),
        loader=LoaderConfig(batch_size=64),
        optim=OptimConfig(
            tables=TableOptimConfig(name="adagrad", lr=0.2), dense=DenseOptimConfig(lr=0.01)
        ),
        sharding=ShardingConfig(default="row_wise"),
        train=TrainConfig(epochs=4, folds=folds, monitor="logloss", embedding_init_std=0.1),
        checkpoint=CheckpointConfig(every_steps=0),
        tracking=TrackingConfig(mlflow=False),
    )


def fit(world: World, experiment: Experiment) -> dict[str, Any]:
    told: list[Any] = []
    summary = run.train(experiment, world, told.append, threads=1)
    chosen = [m for m in told if isinstance(m, messages.Chosen)]
    folds = [m.fold for m in told if isinstance(m, messages.Fold)]
    return {"summary": summary, "chosen": chosen, "folds": folds}


def test_a_tower_that_gains_is_trained_for_the_chosen_epochs_on_any_workers(data, tmp_path):
    (one,) = run_ranks(fit, 1, experiment_for(data, tmp_path / "one"))
    two, _ = run_ranks(fit, 2, experiment_for(data, tmp_path / "two"))
    (chosen,), summary = one["chosen"], one["summary"]
    assert one["folds"] == two["folds"] == [0, 1]
    assert chosen.epochs > 0 and chosen.share >= 0.5 and chosen.rows == 1500
    assert 0 < chosen.bound < chosen.gain
    assert summary["epochs"] == chosen.epochs and summary["steps"] == 24 * chosen.epochs
    assert summary["stopped"] == f"cross-validation chose epoch {chosen.epochs}"
    assert summary["valid"]["tower_share"] == chosen.share
    assert summary["test"]["logloss"] < summary["test"]["wide_logloss"] - 0.05
    assert two["chosen"][0].gain == pytest.approx(chosen.gain, abs=0.02)
    # a start that finds the finished run does not cross-validate again
    (again,) = run_ranks(fit, 1, experiment_for(data, tmp_path / "one"))
    assert again["folds"] == [] and again["summary"]["test"] == summary["test"]


def test_without_a_gain_the_model_is_its_wide_part(tmp_path):
    path = tmp_path / "data"
    write_counts(write_dataset(path, {"train": 600, "valid": 100, "test": 100}))
    still = OptimConfig(
        tables=TableOptimConfig(name="adagrad", lr=1e-9), dense=DenseOptimConfig(lr=1e-9)
    )
    experiment = replace(experiment_for(str(path), tmp_path), optim=still)
    (found,) = run_ranks(fit, 1, experiment)
    (chosen,), summary = found["chosen"], found["summary"]
    assert (chosen.epochs, chosen.share, summary["steps"]) == (0, 0.0, 0)
    assert summary["test"]["logloss"] == summary["test"]["wide_logloss"]


def test_the_folds_part_the_rows(data):
    fold_B = fold_of(torch.arange(100_000), 5)
    counts = torch.bincount(fold_B, minlength=5)
    assert len(counts) == 5 and (counts - 20_000).abs().max() < 600


def parts(world: World, data: str) -> list[list[int]]:
    """The rows of each fold, and those outside it."""
    dataset = open_dataset(data)
    config = LoaderConfig(batch_size=64)
    seen = []
    for fold in range(3):
        for held in (True, False):
            loader = Loader(dataset, "train", config, rank=world.rank, world_size=world.size)
            rows, sizes = [], 0
            for batch, after in FoldRows(loader, fold, 3, held=held).in_pairs():
                rows += batch.row_B.tolist()
                sizes += batch.global_size
                assert after is None or len(after.label_B) <= 64
            seen.append(sorted(rows))
            seen.append([sizes])
    return seen


def test_each_row_is_in_one_fold_and_outside_the_others(data):
    both = run_ranks(parts, 2, data)
    for first, second, (size,), (same,) in zip(
        both[0][::2], both[1][::2], both[0][1::2], both[1][1::2], strict=True
    ):
        assert size == same == len(first) + len(second)
    folds = [sorted(a + b) for a, b in zip(both[0][::4], both[1][::4], strict=True)]
    assert sorted(chain.from_iterable(folds)) == list(range(1500))
    for fold, a, b in zip(folds, both[0][2::4], both[1][2::4], strict=True):
        assert sorted(fold + a + b) == list(range(1500))


def test_selected_rows_keep_their_values_and_lists(data):
    dataset = open_dataset(data)
    schema_keys = [field.name for field in dataset.schema.categorical]
    batch = next(iter(Loader(dataset, "train", LoaderConfig(batch_size=64))))
    keep_B = torch.rand(64, generator=torch.Generator().manual_seed(0)) < 0.4
    kept = select_rows(batch, keep_B, 26)
    assert kept.sparse.stride() == batch.sparse.stride() and kept.global_size == 26
    for name in ("numeric_BK", "label_B", "row_B"):
        assert torch.equal(getattr(kept, name), getattr(batch, name)[keep_B])
    for key in schema_keys:
        lists = batch.sparse[key].to_dense()
        wanted = [lists[b].tolist() for b in keep_B.nonzero().flatten().tolist()]
        found = [values.tolist() for values in kept.sparse[key].to_dense()]
        assert found == wanted + [[]] * (64 - len(wanted))
