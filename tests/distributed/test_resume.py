"""A run that is killed and started again equals one that was not."""

import json
import os
import signal
from pathlib import Path

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
    data, tmp_path, kind, optimizer, ema_decay
):
    undisturbed = run_ranks(train, 2, data, str(tmp_path / "a"), kind, optimizer, -1, ema_decay)
    killed_at = STEPS_PER_EPOCH + 8  # in the second epoch, three steps after a checkpoint
    codes = kill_ranks(train, 2, data, str(tmp_path / "b"), kind, optimizer, killed_at, ema_decay)
    assert codes[0] == -signal.SIGKILL
    resumed = run_ranks(train, 2, data, str(tmp_path / "b"), kind, optimizer, -1, ema_decay)

    first = resumed[0]["rows"][0][0]
    assert STEPS_PER_EPOCH <= first < killed_at  # it went on from a checkpoint within the epoch
    for rank in range(2):
        assert resumed[rank]["rows"] == undisturbed[rank]["rows"][first:]
        for name, value in undisturbed[rank]["weights"].items():
            np.testing.assert_array_equal(resumed[rank]["weights"][name], value, err_msg=name)
    for key in ("test", "valid", "rows_seen", "steps", "best_step"):
        assert resumed[0]["summary"][key] == undisturbed[0]["summary"][key]
    assert resumed[0]["summary"]["rows_seen"] == 1999 * EPOCHS


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


def test_goes_on_with_other_workers_and_another_plan(data, tmp_path):
    run_dir = tmp_path / "run"
    kill_ranks(train, 2, data, str(run_dir), "row_wise", "adagrad", 13)
    newest = complete(run_dir / "checkpoints")[-1]
    assert newest is not None
    saved_step = read(newest).step
    three = run_ranks(train, 3, data, str(run_dir), "table_wise", "adagrad", -1)
    alone = run_ranks(train, 1, data, str(tmp_path / "alone"), "auto", "adagrad", -1)
    first = three[0]["rows"][0][0]
    assert first == saved_step
    together = [
        [row for rank in three for row in rank["rows"][i][1]] for i in range(len(three[0]["rows"]))
    ]
    assert together == [rows for _, rows in alone[0]["rows"][first:]]
    assert three[0]["summary"]["rows_seen"] == 1999 * EPOCHS
    # dropout differs between numbers of workers, so results are alike, not equal
    assert abs(three[0]["summary"]["test"]["auc"] - alone[0]["summary"]["test"]["auc"]) < 0.05


def test_a_damaged_newest_checkpoint_is_passed_over(data, tmp_path):
    undisturbed = run_ranks(train, 2, data, str(tmp_path / "a"), "row_wise", "adagrad", -1)
    kill_ranks(train, 2, data, str(tmp_path / "b"), "row_wise", "adagrad", STEPS_PER_EPOCH + 8)
    older, newest = complete(tmp_path / "b" / "checkpoints")[-2:]
    step = read(older).step  # now: the resumed run may remove it
    bytes_of_rank_1 = next(Path(newest).glob("r00001-*.bin"))
    content = bytearray(bytes_of_rank_1.read_bytes())
    content[len(content) // 2] ^= 4  # seen by the ranks that read this block alone
    bytes_of_rank_1.write_bytes(content)
    resumed = run_ranks(train, 2, data, str(tmp_path / "b"), "row_wise", "adagrad", -1)
    for rank in range(2):
        first = resumed[rank]["rows"][0][0]
        assert first == step
        assert resumed[rank]["rows"] == undisturbed[rank]["rows"][first:]
        for name, value in undisturbed[rank]["weights"].items():
            np.testing.assert_array_equal(resumed[rank]["weights"][name], value, err_msg=name)

    for path in complete(tmp_path / "b" / "checkpoints"):
        next(Path(path).glob("*.bin")).unlink()
    with pytest.raises(RuntimeError, match=r"missing.*There is no older one of this run"):
        run_ranks(train, 1, data, str(tmp_path / "b"), "row_wise", "adagrad", -1)


def test_a_finished_run_started_again_only_evaluates(data, tmp_path):
    first = run_ranks(train, 1, data, str(tmp_path), "auto", "sgd", -1)[0]
    again = run_ranks(train, 2, data, str(tmp_path), "table_wise", "sgd", -1)[0]
    assert again["rows"] == []
    assert again["summary"]["rows_seen"] == first["summary"]["rows_seen"]
    assert again["summary"]["test"]["auc"] == pytest.approx(
        first["summary"]["test"]["auc"], abs=1e-6
    )


def test_retention_keeps_newest_and_best(data, tmp_path):
    summary = run_ranks(train, 1, data, str(tmp_path), "auto", "adagrad", -1)[0]["summary"]
    kept = [Path(path).name for path in complete(tmp_path / "checkpoints")]
    assert len(kept) <= 3
    assert Path(summary["checkpoint"]).name in kept
    assert (
        summary["checkpoint"] == read(tmp_path).path
    )  # a run's directory stands for its best checkpoint


def test_a_checkpoint_without_marker_does_not_count(data, tmp_path):
    run_ranks(train, 1, data, str(tmp_path), "auto", "adagrad", -1)
    newest, older = (Path(path) for path in reversed(complete(tmp_path / "checkpoints")[-2:]))
    (newest / MARKER).unlink()
    assert complete(tmp_path / "checkpoints")[-1] == str(older)
    sizes = json.loads((older / MARKER).read_text())["files"]
    damaged = older / next(name for name in sizes if name.endswith(".bin"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="The checkpoint is damaged"):
        read(older)
