"""The accounting of a step: counted operations, moved bytes, phases."""

from __future__ import annotations

import time

import torch

from ctrdist.config.experiment import LoaderConfig, OptimConfig, TableOptimConfig, experiment_of
from ctrdist.data.loader import Loader
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed import Exchanges, World, sum_over_ranks, use_collectives
from ctrdist.models.configs import DLFConfig
from ctrdist.sharding.shared_memory import open_sums
from ctrdist.training.build import build_engine
from ctrdist.training.throughput import Clock, count_flops, measure_limits, table_bytes
from tests.datasets import write_dataset
from tests.ranks import run_ranks


def counted(world: World, data: str) -> tuple[int, int]:
    model = DLFConfig(
        form="code", embedding_dim=4, num_layers=1, tokens_per_block=3, rank=2, hidden_dim=8
    )
    experiment = experiment_of("dlf", DLFConfig)(
        data=data,
        model=model,
        loader=LoaderConfig(batch_size=10),
        optim=OptimConfig(tables=TableOptimConfig(name="adagrad")),
    )
    dataset = open_dataset(data)
    engine = build_engine(experiment, dataset, world)
    batch = next(iter(Loader(dataset, "train", experiment.loader)))
    return count_flops(engine, batch), table_bytes(engine, batch)


def test_operations_and_bytes_are_those_of_the_batch(tmp_path):
    write_dataset(tmp_path, {"train": 100}, numeric=2, vocabulary=(30, 7, 50))
    flops, moved = run_ranks(counted, 1, str(tmp_path))[0]
    # B 10, F 5 fields, D 4, m 3, k 2, hidden 8; three blocks give 9 tokens
    batch, f, d, m, k, hidden = 10, 5, 4, 3, 2, 8
    cross = d * f * k + f * d * k  # Xᵀ W, then X (Xᵀ W)
    block = cross + f * k * hidden + hidden * m * d
    layer = 2 * block + d * f * m + d * f * 3 * m  # both blocks, linear tokens, residual
    head = 3 * m * d * hidden + hidden * 1
    assert flops == 2 * batch * (layer + head)
    assert moved == batch * 3 * d * 4 * (1 + 2 + 2 + 1)


def test_the_clock_counts_by_phase_and_not_the_first_steps():
    clock = Clock(torch.device("cpu"))
    for step in range(6):
        clock.begin()
        time.sleep(0.2 if step < 3 else 0.02)
        clock.mark("loader")
        time.sleep(0.01)
        clock.mark("forward")
        clock.end()
    assert clock.steps == 3
    assert 0.06 <= clock.seconds["loader"] < 0.2
    assert clock.seconds["loader"] > clock.seconds["forward"] >= 0.03
    assert clock.seconds["backward"] == 0.0


def exchanged(world: World) -> tuple[float, float]:
    """Seconds in exchanges on this rank, of which the last comes late to each; and of the steps."""
    use_collectives(open_sums(world))
    clock = Clock(world.device)
    for step in range(8):
        clock.begin()
        clock.mark("loader")
        if step == 7 and world.rank == 1:
            time.sleep(0.5)
        sum_over_ranks(torch.ones(3))
        clock.mark("forward")
        clock.end()
    return clock.exchanging, sum(clock.seconds.values())


def test_waiting_for_another_worker_is_communication():
    (waits, all_of_it), (comes_late, with_sleep) = run_ranks(exchanged, 2)
    assert 0.4 < waits <= all_of_it
    assert 0 < comes_late < with_sleep - 0.4


def test_an_exchange_that_is_made_of_others_counts_once():
    exchanges = Exchanges()
    with exchanges:
        with exchanges:
            time.sleep(0.05)
        time.sleep(0.05)
    assert 0.1 <= exchanges.seconds < 0.14


def test_limits_are_measured():
    limits = measure_limits(torch.device("cpu"), torch.float32, seconds=0.05)
    assert limits.flops_per_s > 1e8 and limits.bytes_per_s > 1e7
