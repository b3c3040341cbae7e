"""Throughput of steps: counted operations, moved bytes, phases, communication."""

import copy
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ctrdist.config.experiment import LoaderConfig, experiment_of
from ctrdist.config.optimizers import OptimConfig, TableOptimConfig
from ctrdist.data.loader import Loader
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.communication_timer import (
    TIMER,
    CommunicationTimer,
    stop_timing,
    time_process_group,
)
from ctrdist.distributed.process_group import World, sum_over_ranks, use_collectives
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.sharding.cpu.shared_memory import open_sums
from ctrdist.training.build import build_engine
from ctrdist.training.observe.throughput import StepClock, count_flops, measure_limits, table_bytes
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
    clock = StepClock(torch.device("cpu"))
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


def communicated(world: World) -> tuple[float, float]:
    """Seconds of communication and of all phases on this rank; rank 1 comes late once."""
    use_collectives(open_sums(world))
    clock = StepClock(world.device)
    for step in range(8):
        clock.begin()
        clock.mark("loader")
        if step == 7 and world.rank == 1:
            time.sleep(0.5)
        sum_over_ranks(torch.ones(3))
        clock.mark("forward")
        clock.end()
    return clock.communicating, sum(clock.seconds.values())


def test_waiting_for_another_worker_is_communication():
    (waits, all_of_it), (comes_late, with_sleep) = run_ranks(communicated, 2)
    assert 0.4 < waits <= all_of_it
    assert 0 < comes_late < with_sleep - 0.4


def waited(world: World) -> tuple[float, float, list[float]]:
    """Seconds waiting for a collective, for gradients, and these, as a rank comes late to each."""
    module = torch.nn.Linear(4, 1, bias=False)
    torch.nn.init.constant_(module.weight, 1.0)
    plain = DistributedDataParallel(copy.deepcopy(module))
    plain(torch.full((2, 4), float(world.rank + 1))).sum().backward()
    watched = DistributedDataParallel(module)
    time_process_group(watched, world.device)
    begun = TIMER.seconds
    if world.rank == 1:
        time.sleep(0.4)
    sent, received = torch.ones(2), torch.empty(2)
    work = dist.all_to_all_single(received, sent, async_op=True)
    work.wait()
    assert isinstance(work, dist.Work) and torch.equal(received, sent)
    collective = TIMER.seconds - begun
    dist.barrier()
    begun = TIMER.seconds
    output = watched(torch.full((2, 4), float(world.rank + 1))).sum()
    if world.rank == 1:
        time.sleep(0.4)
    output.backward()
    gradients = TIMER.seconds - begun
    assert module.weight.grad is not None
    assert torch.equal(module.weight.grad, plain.module.weight.grad)
    stop_timing()
    assert not hasattr(dist.Work.wait, "untimed")
    return collective, gradients, module.weight.grad.tolist()[0]


def test_a_process_group_s_collectives_and_gradients_count():
    (collective, gradients, mean), late = run_ranks(waited, 2)
    assert collective > 0.3 and gradients > 0.3
    assert late[0] < 0.2 and late[1] < 0.2
    assert mean == late[2] == [3.0] * 4  # (2·1 + 2·2) / 2


def test_nested_communication_counts_once():
    timer = CommunicationTimer()
    with timer:
        with timer:
            time.sleep(0.05)
        time.sleep(0.05)
    assert 0.1 <= timer.seconds < 0.14


def test_limits_are_measured():
    limits = measure_limits(torch.device("cpu"), torch.float32, seconds=0.05)
    assert limits.flops_per_s > 1e8 and limits.bytes_per_s > 1e7
