"""Workers of one machine that look up, update and sum through shared memory."""

import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.config.experiment import ShardingConfig
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World, gather_over_ranks, sum_over_ranks
from ctrdist.errors import DataError
from ctrdist.sharding.cpu.shared_memory import open_sums
from ctrdist.training.build import build_engine
from tests.datasets import write_dataset
from tests.distributed.test_sharding_equivalence import experiment_for, train, train_plain
from tests.ranks import run_ranks

FIELDS = ["C0", "C1", "C2"]
SIZES = (1, 7, 5000, 600_000, 2_000_003)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 10_300}, vocabulary=(30, 2, 5000))
    return str(path)


@pytest.fixture(scope="module")
def unsharded(data) -> dict[str, dict[str, Any]]:
    """One process, plain PyTorch, per optimiser."""
    return {name: train_plain(data, name) for name in ("rowwise_adagrad", "adagrad", "sgd")}


def lookup_of(engine) -> Any:
    return next(m.__dict__["forward"] for m in engine.model.modules() if "forward" in m.__dict__)


KINDS = [
    ("table_wise", "rowwise_adagrad"),
    ("row_wise", "adagrad"),
    ("row_wise", "rowwise_adagrad"),
    ("column_wise", "sgd"),
    ("auto", "adagrad"),
]


@pytest.mark.parametrize(
    ("kind", "optimizer", "workers"),
    [
        *((*kind, 2) for kind in KINDS),
        (*KINDS[1], 1),
        (*KINDS[2], 3),
        *(pytest.param(*kind, 1, marks=pytest.mark.slow) for kind in KINDS if kind != KINDS[1]),
        *(pytest.param(*kind, 3, marks=pytest.mark.slow) for kind in KINDS if kind != KINDS[2]),
    ],
)
def test_it_trains_like_one_process(data, unsharded, tmp_path, kind, optimizer, workers):
    sharded = run_ranks(train, workers, data, str(tmp_path), kind, optimizer)[0]
    expected = unsharded[optimizer]
    # the same sums in another order: equal to rounding at first, which training then amplifies
    np.testing.assert_allclose(sharded["losses"][:3], expected["losses"][:3], rtol=5e-6)
    np.testing.assert_allclose(sharded["losses"], expected["losses"], rtol=5e-4)
    for name, end in expected["end"].items():
        moved = np.linalg.norm(end - expected["start"][name])
        assert np.linalg.norm(sharded["end"][name] - end) < 0.05 * moved, name


def what_is_used(world: World, data: str, sharding: ShardingConfig) -> tuple[str, bool]:
    experiment = replace(experiment_for(data, "row_wise", "adagrad"), sharding=sharding)
    engine = build_engine(experiment, open_dataset(data), world)
    used = [type(m.__dict__["forward"]) for m in engine.model.modules() if "forward" in m.__dict__]
    import ctrdist.distributed.process_group

    return (used[0].__name__ if used else "", ctrdist.distributed.process_group._fast is not None)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("SharedMemoryLookup", True)),
        ({"shared_memory": False}, ("", False)),
        ({"cpu_kernel": False}, ("", True)),
        ({"forward_comm": "float16"}, ("", True)),
        ({"tables": {"tokens/C1": "data_parallel"}}, ("", True)),
        ({"tables_dtype": "float16"}, ("", True)),
    ],
)
def test_it_is_used_where_it_applies(data, settings, expected):
    sharding = ShardingConfig(default="row_wise", **settings)
    assert run_ranks(what_is_used, 2, data, sharding) == [expected] * 2


def features_of(ids: dict[str, list[int]], stride: int) -> KeyedJaggedTensor:
    lengths = torch.zeros(len(ids), stride, dtype=torch.int32)
    for row, values in zip(lengths, ids.values(), strict=True):
        row[: len(values)] = 1
    values = torch.tensor([i for one in ids.values() for i in one], dtype=torch.int64)
    return KeyedJaggedTensor(list(ids), values, lengths=lengths.reshape(-1), stride=stride)


def refusals(world: World, data: str) -> list[str]:
    lookup = lookup_of(
        build_engine(experiment_for(data, "row_wise", "adagrad"), open_dataset(data), world)
    )
    kept = lookup(features_of({"C0": [1], "C1": [1], "C2": [1]}, 1)).values()
    lookup(features_of({"C0": [1], "C1": [1], "C2": [1]}, 1))
    seen = []
    for refused in (
        lambda: kept.sum().backward(),
        lambda: lookup(features_of({"C0": [1, 1], "C1": [1, 2], "C2": [1, 1]}, 2)),
        lambda: lookup(features_of({"C0": [2**40], "C1": [1], "C2": [1]}, 1)),
        lambda: lookup(features_of({"C0": [1], "C1": [1], "C2": [-1]}, 1)),
    ):
        with pytest.raises((RuntimeError, DataError)) as error:
            refused()
        seen.append(str(error.value))
    return seen


def test_what_is_refused(data):
    late, large, huge, negative = run_ranks(refusals, 1, data)[0]
    assert "a lookup's backward pass after the next lookup" in late
    assert "field C1: id 2 was looked up, its table has rows 0 to 1" in large
    assert f"field C0: id {2**40} was looked up" in huge
    assert "field C2: id -1 was looked up" in negative


def lookups(world: World, data: str) -> list[Any]:
    lookup = lookup_of(
        build_engine(experiment_for(data, "row_wise", "adagrad"), open_dataset(data), world)
    )
    seen = []
    for rows in (3, 40, 0, 1):  # more, fewer, none: memory grows, and is used again
        own = range(max(rows - world.rank, 0))
        ids = {"C2": [7 * i for i in own], "C0": [i % 30 for i in own], "C1": [i % 2 for i in own]}
        found = lookup(features_of(ids, rows))
        assert found.keys() == ["C0", "C1", "C2"]
        seen.append(found.values()[: len(own)].detach().numpy())
    return seen


def test_all_workers_find_the_same_rows(data):
    alone = run_ranks(lookups, 1, data)[0]
    for seen in run_ranks(lookups, 3, data):
        for mine, expected in zip(seen, alone, strict=True):
            np.testing.assert_array_equal(mine, expected[: len(mine)])


def sums(world: World) -> list[bool]:
    opened = open_sums(world)
    assert opened is not None
    found = []
    for dtype in (torch.float32, torch.float64, torch.int64):
        for size in SIZES:
            own = [
                (torch.arange(size) % 1000 + rank).to(dtype).view(1, size)
                for rank in range(world.size)
            ]
            mine = own[world.rank].clone()
            found.append(torch.equal(opened.sum_(mine), sum(own)))
            found.append(mine.shape == (1, size))
    parts = [torch.full((9,), float(rank)) for rank in range(world.size)]
    for _ in range(3):
        found.append(torch.equal(opened.gather(parts[world.rank]), torch.stack(parts)))
    with pytest.raises(ValueError, match="too many"):
        opened.gather(torch.zeros(2**20))
    # without it, the process group's
    found.append(torch.equal(gather_over_ranks(parts[world.rank]), torch.stack(parts)))
    found.append(float(sum_over_ranks(torch.ones(1))) == world.size)
    return found


@pytest.mark.parametrize("workers", [2, 3])
def test_sums_and_gathers(workers):
    for found in run_ranks(sums, workers):
        assert all(found)


def compiled_gathers(world: World) -> int:
    """The number of times that a compiled gather gave wrong values of others."""
    opened = open_sums(world)
    assert opened is not None

    # any backend would do: it is the capture that turns writing in place into copies
    @torch.compile(backend="aot_eager")
    def both(values_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return opened.gather(values_N * 2), opened.sum_(values_N * 1)

    wrong = 0
    for turn in range(300):
        gathered, total = both(torch.full((30_000,), float(10 * turn + world.rank)))
        expected = [20.0 * turn + 2 * rank for rank in range(world.size)]
        wrong += gathered[:, 0].tolist() != expected or gathered[:, -1].tolist() != expected
        wrong += not bool((total == sum(expected) / 2).all())
    return wrong


def test_compiled_code_does_not_write_over_others_values():
    assert run_ranks(compiled_gathers, 2) == [0, 0]


def one_leaves(world: World) -> str:
    opened = open_sums(world)
    assert opened is not None
    opened.sum_(torch.ones(4))
    if world.rank == 1:
        os._exit(3)
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match="worker 1 is gone"):
        opened.sum_(torch.ones(4))
    assert time.monotonic() - begun < 20
    raise AssertionError("it was noticed")


def test_a_worker_that_is_gone_is_noticed():
    with pytest.raises(RuntimeError, match="it was noticed"):
        run_ranks(one_leaves, 2)
