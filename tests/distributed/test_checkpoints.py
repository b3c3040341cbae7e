"""Checkpoints of several ranks: other world sizes and plans, failures and kills during a save."""

import os
import random
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from ctrdist.checkpoint.store import CheckpointStore, Texts, complete, load_tensors, read
from ctrdist.config.experiment import CheckpointConfig, ShardingConfig, experiment_of
from ctrdist.config.optimizers import OptimConfig, TableOptimConfig
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World
from ctrdist.errors import CheckpointError
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.training.build import build_engine
from tests.datasets import write_dataset
from tests.distributed.test_resume import MODEL
from tests.ranks import kill_ranks, run_ranks

TEXTS = Texts(config="model: {}\n", schema="{}", plan="{}")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 100, "valid": 50, "test": 50}, vocabulary=(300, 7, 50))
    return str(path)


def parts(tensors: dict[str, Any], prefix: str = "") -> list[tuple[str, Tensor, list[int]]]:
    """This rank's parts of all tensors: (name, values, offset of each dimension)."""
    found: list[tuple[str, Tensor, list[int]]] = []
    for key, value in tensors.items():
        name = f"{prefix}.{key}"
        if isinstance(value, dict):
            found += parts(value, name)
        elif isinstance(value, ShardedTensor):
            found += [(name, s.tensor, s.metadata.shard_offsets) for s in value.local_shards()]
        else:
            found.append((name, value.detach(), [0] * value.dim()))
    return found


def expected(name: str, part: Tensor, offsets: list[int]) -> Tensor:
    """A value for each place of each tensor, whoever holds it."""
    value = torch.full(part.shape, float(sum(name.encode()) % 97))
    for dim, (offset, size) in enumerate(zip(offsets, part.shape, strict=True)):
        shape = [-1 if d == dim else 1 for d in range(part.dim())]
        value = value + (1 + 999 * dim) * torch.arange(offset, offset + size).view(shape)
    return value.to(part.dtype)


def engine_parts(world: World, data: str, kind: str) -> tuple[dict, list]:
    experiment = experiment_of("dlf", DLFConfig)(
        data=data,
        model=MODEL,
        optim=OptimConfig(tables=TableOptimConfig(name="adagrad")),
        sharding=ShardingConfig(default=kind),
    )
    engine = build_engine(experiment, open_dataset(data), world)
    tensors = engine.tensors()
    return tensors, parts(tensors)


def save_model(world: World, data: str, directory: str, kind: str, asynchronous: bool) -> None:
    tensors, found = engine_parts(world, data, kind)
    with torch.no_grad():
        for name, part, offsets in found:
            part.copy_(expected(name, part, offsets))
        store = CheckpointStore(directory, CheckpointConfig(asynchronous=asynchronous))
        store.save(1, tensors, {}, TEXTS)
        if asynchronous:
            for _, part, _ in found:
                part.zero_()  # training continues
        store.wait()


def load_model(world: World, data: str, directory: str, kind: str) -> int:
    """Compares parts of tensors; the number of those with more than one value."""
    tensors, found = engine_parts(world, data, kind)
    with torch.no_grad():
        for _, part, _ in found:
            part.fill_(-1)
        load_tensors(read(directory).path, tensors)
    for name, part, offsets in found:
        assert torch.equal(part, expected(name, part, offsets)), (name, offsets)
    return sum(part.numel() > 1 for _, part, _ in found)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_model_of_two_ranks_loads_on_one_and_three_with_another_plan(
    data, tmp_path, asynchronous
):
    run_ranks(save_model, 2, data, str(tmp_path), "row_wise", asynchronous)
    for size, kind in ((1, "table_wise"), (3, "column_wise"), (3, "row_wise"), (2, "column_wise")):
        assert min(run_ranks(load_model, size, data, str(tmp_path), kind)) > 10


def dtensors(size: int, placement: Any, values: Tensor) -> DTensor:
    return distribute_tensor(values, init_device_mesh("cpu", (size,)), [placement])


def save_dtensors(world: World, directory: str) -> None:
    whole = torch.arange(35 * 6, dtype=torch.bfloat16).view(35, 6)
    tensors = {
        "rows": dtensors(world.size, Shard(0), whole),
        "columns": dtensors(world.size, Shard(1), whole),
        "copies": dtensors(world.size, Replicate(), whole),
        "scalar": torch.tensor(2.5),
    }
    store = CheckpointStore(directory, CheckpointConfig())
    store.save(1, tensors, {}, TEXTS)
    store.wait()


def load_dtensors(world: World, directory: str) -> None:
    whole = torch.arange(35 * 6, dtype=torch.bfloat16).view(35, 6)
    zeros = torch.zeros_like(whole)
    tensors = {
        "rows": dtensors(world.size, Shard(1), zeros),
        "columns": dtensors(world.size, Shard(0), zeros),
        "copies": zeros.clone(),
        "scalar": torch.tensor(0.0),
    }
    load_tensors(read(directory).path, tensors)
    for name in ("rows", "columns"):
        assert torch.equal(tensors[name].full_tensor(), whole)
    assert torch.equal(tensors["copies"], whole)
    assert tensors["scalar"] == 2.5


@pytest.mark.parametrize("size", [1, 3])
def test_dtensors_of_two_ranks_load_on_others(tmp_path, size):
    run_ranks(save_dtensors, 2, str(tmp_path))
    run_ranks(load_dtensors, size, str(tmp_path))


def fail_on_rank_1(world: World, directory: str) -> str:
    store = CheckpointStore(directory, CheckpointConfig())
    tensors = {f"rank {world.rank}": torch.ones(100_000)}
    if world.rank == 1:  # stands for a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))
    store.save(1, tensors, {}, TEXTS)
    with pytest.raises(CheckpointError) as caught:
        store.wait()
    return str(caught.value)


def test_what_one_rank_cannot_write_is_the_same_error_on_all(tmp_path):
    errors = run_ranks(fail_on_rank_1, 2, str(tmp_path))
    assert errors[0] == errors[1]
    assert "checkpoint of step 1: worker " in errors[0] and "File too large" in errors[0]
    assert complete(tmp_path) == []


def save_elsewhere(world: World, directory: str) -> str:
    store = CheckpointStore(f"{directory}/{world.rank}", CheckpointConfig())
    with pytest.raises(CheckpointError) as caught:
        store.save(1, {"a": torch.ones(3)}, {}, TEXTS)
    return str(caught.value)


def test_a_directory_that_is_not_shared_is_refused_at_once(tmp_path):
    for error in run_ranks(save_elsewhere, 2, str(tmp_path)):
        assert "a worker does not see" in error and "checkpoint.directory" in error


ROWS = 400_000  # 2 × 13 MB, so that a save takes some tens of milliseconds


def save_for_ever(world: World, directory: str, seconds: float, victim: int) -> None:
    """Saves one checkpoint after the other; the victim dies so long after the first is whole."""
    store = CheckpointStore(directory, CheckpointConfig(keep=2))
    if world.is_main:
        store.remove_leftovers()
    torch.distributed.barrier()
    whole = complete(directory)
    step = read(whole[-1]).step if whole else 0
    mesh = init_device_mesh("cpu", (world.size,))
    local = torch.zeros(ROWS // world.size, 16)
    table = DTensor.from_local(local, mesh, [Shard(0)])
    while True:
        step += 1
        local.fill_(step)
        store.save(step, {"table": table, "step": torch.tensor(step)}, {"n": step}, TEXTS)
        if seconds >= 0 and (whole or store.wait()):
            if world.rank == victim:
                threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
            seconds = -1.0


def check_all(world: World, directory: str) -> list[int]:
    """Steps of all whole checkpoints, each compared value by value."""
    steps = []
    for path in complete(directory):
        opened = read(path)
        tensors = {"table": torch.full((ROWS, 16), -1.0), "step": torch.tensor(-1)}
        load_tensors(path, tensors)
        assert tensors["step"] == opened.step == opened.state["n"]
        assert tensors["table"].eq(opened.step).all()
        steps.append(opened.step)
    return steps


@pytest.mark.parametrize(
    "times", [pytest.param(3, id="quick"), pytest.param(20, id="20", marks=pytest.mark.slow)]
)
def test_killed_during_a_save_an_older_checkpoint_always_loads(tmp_path, times):
    rng, cut_off, newest = random.Random(times), 0, 0
    for attempt in range(times):
        victim = attempt % 2
        codes = kill_ranks(save_for_ever, 2, str(tmp_path), rng.uniform(0, 0.4), victim)
        assert codes[victim] == -signal.SIGKILL
        whole = complete(tmp_path)
        cut_off += sum(path.is_dir() for path in tmp_path.iterdir()) > len(whole)
        steps = run_ranks(check_all, 1, str(tmp_path))[0]
        assert steps and steps[-1] >= newest
        newest = steps[-1]
    assert cut_off  # some kills did hit a save
    store = CheckpointStore(tmp_path, CheckpointConfig())
    store.remove_leftovers()
    assert [str(path) for path in sorted(tmp_path.iterdir())] == complete(tmp_path)


def test_a_store_is_left_in_bounded_time(tmp_path):
    begun = time.monotonic()
    run_ranks(leave_while_another_rank_is_gone, 2, str(tmp_path))
    assert time.monotonic() - begun < 60
    assert complete(tmp_path) == []


def leave_while_another_rank_is_gone(world: World, directory: str) -> None:
    store = CheckpointStore(directory, CheckpointConfig())
    if world.rank == 1:  # its part never comes
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, -1))
    store.save(1, {f"rank {world.rank}": torch.ones(9)}, {}, TEXTS)
    store.leave(0.5)
    assert not any(Path(directory).glob("*/complete.json"))
