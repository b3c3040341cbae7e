"""A run that is killed and started again equals one that was not."""

import json
import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from ctrdist.checkpoint.store import MARKER, complete, read
from ctrdist.config.experiment import (
    CheckpointConfig,
    LoaderConfig,
    ShardingConfig,
    TrackingConfig,
    TrainConfig,
    experiment_of,
)
from ctrdist.config.optimizers import OptimConfig, TableOptimConfig
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World
from ctrdist.errors import CheckpointError
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.sharding.shard import table_parts
from ctrdist.training.build import build_engine
from ctrdist.training.loop.trainer import Trainer
from ctrdist.training.observe.observers import Observer, Stepped
from ctrdist.training.run import evaluate_checkpoint, experiment_of_checkpoint
from tests.datasets import write_dataset
from tests.ranks import kill_ranks, run_ranks

MODEL = DLFConfig(
    embedding_dim=8,
    num_layers=1,
    tokens_per_block=4,
    rank=3,
    hidden_dim=16,
    attention_layers=1,
    attention_heads=2,
    dropout=0.2,
)
STEPS_PER_EPOCH = 16  # 1,999 rows in steps of 128
EPOCHS = 2
KILLED_AT = STEPS_PER_EPOCH + 8  # in the second epoch, three steps after a checkpoint


class Journal(Observer):
    """Keeps which rows each step saw, and kills this process after a step."""

    def __init__(self, kill_after: int) -> None:
        self.kill_after = kill_after

    def on_step(self, event: Stepped) -> None:
        if event.progress.step == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


def train(
    world: World,
    data: str,
    run_dir: str,
    kind: str,
    optimizer: str,
    kill_after: int,
    ema_decay: float = 0.0,
) -> dict:
    experiment = experiment_of("dlf", DLFConfig)(
        data=data,
        run_name="run",
        model=MODEL,
        loader=LoaderConfig(batch_size=128, shuffle_rows=500),
        optim=OptimConfig(
            tables=TableOptimConfig(
                name=optimizer, lr=0.02, l2=1e-3 if optimizer == "adam" else 0.0
            ),
            ema_decay=ema_decay,
        ),
        sharding=ShardingConfig(default=kind),
        train=TrainConfig(epochs=EPOCHS, seed=5),
        checkpoint=CheckpointConfig(every_steps=5, keep=2),
        tracking=TrackingConfig(mlflow=False),
    )
    engine = build_engine(experiment, open_dataset(data), world)
    trainer = Trainer(engine, run_dir, [Journal(kill_after)])
    rows, losses = [], []
    step = trainer.step.take

    def recorded(batch):
        rows.append((trainer.progress.step, batch.row_B.tolist()))
        losses.append(step(batch))
        return losses[-1]

    trainer.step.take = recorded  # type: ignore[method-assign]
    summary = trainer.fit()
    weights = {name: p.detach().numpy().copy() for name, p in engine.tower.state_dict().items()}
    weights.update(
        {f"{t}@{r},{c}": part.numpy().copy() for t, part, r, c in table_parts(engine.model)}
    )
    return {"summary": summary, "weights": weights, "rows": rows, "losses": losses}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 1999, "valid": 300, "test": 300})
    return str(path)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Callable[..., tuple[list[dict], Path]]:
    """A function that gives the results of a whole run by rank, and its directory, to be read only.

    Each run is made once.
    """

    @cache
    def run(workers: int, kind: str, optimizer: str, ema_decay: float = 0.0):
        folder = tmp_path_factory.mktemp("undisturbed")
        results = run_ranks(train, workers, data, str(folder), kind, optimizer, -1, ema_decay)
        return results, folder

    return run


@pytest.fixture(scope="module")
def killed(data, tmp_path_factory) -> Callable[..., Path]:
    """A function that gives the directory of a run that was killed, to be read only."""

    @cache
    def run(kind: str, optimizer: str, ema_decay: float) -> Path:
        folder = tmp_path_factory.mktemp("killed")
        settings = (kind, optimizer, KILLED_AT, ema_decay)
        codes = kill_ranks(train, 2, data, str(folder), *settings)
        assert codes[0] == -signal.SIGKILL
        return folder

    return run


@pytest.mark.parametrize(
    ("kind", "optimizer", "ema_decay"),
    [
        ("row_wise", "rowwise_adagrad", 0.0),
        pytest.param("column_wise", "adagrad", 0.9, marks=pytest.mark.slow),
        pytest.param("data_parallel", "adam", 0.0, marks=pytest.mark.slow),
        ("data_parallel", "adam", 0.9),
    ],
)
def test_killed_mid_epoch_and_started_again_equals_undisturbed(
    data, undisturbed, killed, tmp_path, kind, optimizer, ema_decay
):
    whole, _ = undisturbed(2, kind, optimizer, ema_decay)
    run_dir = copytree(killed(kind, optimizer, ema_decay), tmp_path / "b")
    resumed = run_ranks(train, 2, data, str(run_dir), kind, optimizer, -1, ema_decay)

    first = resumed[0]["rows"][0][0]
    assert STEPS_PER_EPOCH <= first < KILLED_AT  # it went on from a checkpoint within the epoch
    assert_went_on(resumed, whole, first)
    for key in ("test", "valid", "rows_seen", "steps", "best_step"):
        assert resumed[0]["summary"][key] == whole[0]["summary"][key]
    assert resumed[0]["summary"]["rows_seen"] == 1999 * EPOCHS


def assert_went_on(resumed: list[dict], whole: list[dict], first: int) -> None:
    """The same rows from step `first` on, and the same weights at the end, on each rank."""
    for one, other in zip(resumed, whole, strict=True):
        assert one["rows"] == other["rows"][first:]
        for name, value in other["weights"].items():
            np.testing.assert_array_equal(one["weights"][name], value, err_msg=name)


def evaluated(world: World, run_dir: str) -> dict:
    experiment, path, _ = experiment_of_checkpoint(run_dir)
    return evaluate_checkpoint(experiment, path, "test", world, lambda _: None)["test"]


def test_the_average_of_the_weights_is_what_is_evaluated_and_saved(data, tmp_path):
    plain, averaged = str(tmp_path / "plain"), str(tmp_path / "averaged")
    without = run_ranks(train, 1, data, plain, "auto", "adam", -1)[0]
    with_it = run_ranks(train, 1, data, averaged, "auto", "adam", -1, 0.9)[0]
    # after training the model has the averages, which are not where training went
    away = [
        np.abs(value - without["weights"][name]).max()
        for name, value in with_it["weights"].items()
        if value.dtype == np.float32
    ]
    assert min(away) > 1e-6
    again = run_ranks(evaluated, 2, averaged)[0]
    for name in ("auc", "logloss"):
        assert again[name] == pytest.approx(with_it["summary"]["test"][name], abs=1e-6)
    assert again["logloss"] != pytest.approx(without["summary"]["test"]["logloss"], abs=1e-5)
    # the steps themselves see nothing of it
    assert with_it["losses"] == without["losses"]

    with pytest.raises(RuntimeError, match=r"optim.ema_decay above 0 = True, this run has"):
        run_ranks(train, 1, data, averaged, "auto", "adam", -1)


def test_goes_on_with_other_workers_and_another_plan(data, undisturbed, tmp_path):
    run_dir = tmp_path / "run"
    kill_ranks(train, 2, data, str(run_dir), "row_wise", "adagrad", 13)
    newest = complete(run_dir / "checkpoints")[-1]
    assert newest is not None
    saved_step = read(newest).step
    three = run_ranks(train, 3, data, str(run_dir), "table_wise", "adagrad", -1)
    alone, _ = undisturbed(1, "auto", "adagrad")
    first = three[0]["rows"][0][0]
    assert first == saved_step
    together = [
        [row for rank in three for row in rank["rows"][i][1]] for i in range(len(three[0]["rows"]))
    ]
    assert together == [rows for _, rows in alone[0]["rows"][first:]]
    assert three[0]["summary"]["rows_seen"] == 1999 * EPOCHS
    # dropout differs between numbers of workers, so results are alike, not equal
    assert abs(three[0]["summary"]["test"]["auc"] - alone[0]["summary"]["test"]["auc"]) < 0.05


def test_a_damaged_newest_checkpoint_is_passed_over(data, undisturbed, killed, tmp_path):
    settings = ("row_wise", "rowwise_adagrad")
    run_dir = copytree(killed(*settings, 0.0), tmp_path / "b")
    older, newest = complete(run_dir / "checkpoints")[-2:]
    step = read(older).step  # now: the resumed run may remove it
    bytes_of_rank_1 = next(Path(newest).glob("r00001-*.bin"))
    content = bytearray(bytes_of_rank_1.read_bytes())
    content[len(content) // 2] ^= 4  # seen by the ranks that read this block alone
    bytes_of_rank_1.write_bytes(content)
    resumed = run_ranks(train, 2, data, str(run_dir), *settings, -1)
    assert [rank["rows"][0][0] for rank in resumed] == [step, step]
    assert_went_on(resumed, undisturbed(2, *settings, 0.0)[0], step)

    for path in complete(run_dir / "checkpoints"):
        next(Path(path).glob("*.bin")).unlink()
    with pytest.raises(RuntimeError, match=r"missing.*There is no older one of this run"):
        run_ranks(train, 1, data, str(run_dir), *settings, -1)


def test_a_finished_run_started_again_only_evaluates(data, undisturbed, tmp_path):
    (first,), folder = undisturbed(1, "auto", "adagrad")
    run_dir = copytree(folder, tmp_path / "run")
    again = run_ranks(train, 2, data, str(run_dir), "table_wise", "adagrad", -1)[0]
    assert again["rows"] == []
    assert again["summary"]["rows_seen"] == first["summary"]["rows_seen"]
    assert again["summary"]["test"]["auc"] == pytest.approx(
        first["summary"]["test"]["auc"], abs=1e-6
    )


def test_retention_keeps_newest_and_best(undisturbed):
    (result,), folder = undisturbed(1, "auto", "adagrad")
    summary = result["summary"]
    kept = [Path(path).name for path in complete(folder / "checkpoints")]
    assert len(kept) <= 3
    assert Path(summary["checkpoint"]).name in kept
    assert (
        summary["checkpoint"] == read(folder).path
    )  # a run's directory stands for its best checkpoint


def test_a_checkpoint_without_marker_does_not_count(undisturbed, tmp_path):
    run_dir = copytree(undisturbed(1, "auto", "adagrad")[1], tmp_path / "run")
    newest, older = (Path(path) for path in reversed(complete(run_dir / "checkpoints")[-2:]))
    (newest / MARKER).unlink()
    assert complete(run_dir / "checkpoints")[-1] == str(older)
    sizes = json.loads((older / MARKER).read_text())["files"]
    damaged = older / next(name for name in sizes if name.endswith(".bin"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="The checkpoint is damaged"):
        read(older)
