"""Ranks end together: on a signal, or because memory is used up."""

import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from ctrdist.checkpoint.store import complete, read
from ctrdist.config.experiment import (
    CheckpointConfig,
    LoaderConfig,
    TrackingConfig,
    TrainConfig,
    experiment_of,
)
from ctrdist.distributed.process_group import World
from ctrdist.errors import ResourceError
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.training import run
from ctrdist.training.faults.stopping import Interrupted, StopRequest
from ctrdist.training.loop.step import Step
from tests.datasets import write_dataset
from tests.ranks import run_ranks

MODEL = DLFConfig(
    embedding_dim=8,
    num_layers=1,
    tokens_per_block=4,
    rank=3,
    hidden_dim=16,
    attention_layers=1,
    attention_heads=2,
)


def experiment(data: str, runs: str):
    return experiment_of("dlf", DLFConfig)(
        data=data,
        runs=runs,
        run_name="run",
        model=MODEL,
        loader=LoaderConfig(batch_size=128),
        train=TrainConfig(epochs=2),
        checkpoint=CheckpointConfig(every_steps=0),
        tracking=TrackingConfig(mlflow=False),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 1999, "valid": 300, "test": 300})
    return str(path)


def interrupted(world: World, data: str, runs: str, rank: int, after: int) -> tuple[int, int]:
    """Trains; one rank gets a real SIGTERM while it computes a step. Gives step and exit code."""
    stop = StopRequest()
    stop.listen(signal.SIGTERM)
    take = Step.take

    def with_signal(step: Step, batch):
        if world.rank == rank and step.progress.step == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(step, batch)

    Step.take = with_signal  # type: ignore[method-assign]
    try:
        summary = run.train(experiment(data, runs), world, lambda message: None, stop)
    except Interrupted as ended:
        return ended.step, int(ended.code or 0)
    return summary["steps"], 0


@pytest.mark.parametrize(("rank", "after", "ends"), [(0, 5, 6), (1, 5, 6), (1, 15, 16)])
def test_a_signal_to_one_rank_ends_all_after_the_same_step(data, tmp_path, rank, after, ends):
    """The last case: in the epoch's last step, so that the epoch is finished first."""
    results = run_ranks(interrupted, 2, data, str(tmp_path), rank, after)
    assert results == [(ends, 128 + signal.SIGTERM)] * 2
    newest = complete(tmp_path / "run/checkpoints")[-1]
    assert newest is not None and Path(newest).name == f"step-{ends:09d}"
    again = run_ranks(interrupted, 2, data, str(tmp_path), -1, -1)
    assert again == [(32, 0)] * 2


def starved(world: World, data: str, runs: str) -> str:
    """Trains a model that does not fit into what this process may have."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**32, resource.RLIM_INFINITY))
    large = replace(experiment(data, runs), model=replace(MODEL, hidden_dim=2**27))
    try:
        run.train(large, world, lambda message: None)
    except ResourceError as error:
        return str(error)
    return ""


def test_a_lack_of_memory_is_one_message(data, tmp_path):
    (text,) = run_ranks(starved, 1, data, str(tmp_path), timeout=60)
    assert text.startswith("worker 0 ran out of memory")
    assert "batches of 128 rows" in text and "loader.batch_size" in text


def timed(world: World, data: str, runs: str, seconds: float) -> list[int]:
    settings = CheckpointConfig(every_steps=0, every_seconds=seconds, keep=100)
    run.train(replace(experiment(data, runs), checkpoint=settings), world, lambda message: None)
    return [read(path).step for path in complete(f"{runs}/run/checkpoints")]


def test_checkpoints_are_written_by_the_clock_of_one_worker(data, tmp_path):
    ends = run_ranks(timed, 2, data, str(tmp_path / "off"), 0.0)[0]
    assert len(ends) == 2  # of the two epochs
    often = run_ranks(timed, 2, data, str(tmp_path / "often"), 1e-3)[0]
    assert set(ends) < set(often)
    assert len(often) > 10
