"""Memory that all workers of one machine have mapped: barriers, sums and gathers in it.

Between CPU workers a collective of gloo goes through sockets and takes a quarter of a millisecond
at least; a barrier in shared memory takes microseconds.
"""

# W workers, N values

import logging
import mmap
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from ctrdist.distributed.communication_timer import TIMER
from ctrdist.distributed.process_group import World
from ctrdist.native import barrier

log = logging.getLogger(__name__)

_WAIT_MS = 200
"""Between two looks at whether another worker is gone."""
_TIMEOUT_S = 1800.0
_CHUNK_BYTES = 2**21
"""Sums of more bytes are made in chunks."""
_SHARED_SUM = 2**12
"""Values of a sum above which each of more than two workers adds up a part of it."""


class SharedMemory:
    """Regions of zeroed memory that all workers see; every rank makes them with the same sizes.

    It has no name in any file system, so that nothing is left when the workers are killed, and no
    container's limit on /dev/shm applies.
    """

    def __init__(self, world: World, regions: Sequence[int]) -> None:
        """Maps regions of so many bytes, for workers that are all on this machine.

        Raises:
            OSError: on all ranks, where one of them cannot have it.
        """
        self._world = world
        sizes = [barrier.CACHE_LINE * world.size, 8 * world.size, *regions]
        begins = [0]
        for size in sizes:
            begins.append(begins[-1] + -(-size // barrier.CACHE_LINE) * barrier.CACHE_LINE)
        mapped = _map(begins[-1], world)
        cut = [mapped[begin : begin + n] for begin, n in zip(begins, sizes, strict=False)]
        self._counters, processes, *self.regions = cut
        """Each (bytes,) uint8."""
        self._processes = processes.view(torch.int64)
        self._processes[world.rank] = os.getpid()

    def wait_for_all(self) -> None:
        """A barrier: returns once all workers have called it and see what each wrote before.

        Raises:
            ConnectionError: one of them is gone.
            TimeoutError: one did not come within half an hour.
        """
        if self._world.size > 1:
            with TIMER:
                self._wait()

    def _wait(self) -> None:
        number = barrier.arrive(self._counters, self._world.rank)
        begun = time.monotonic()
        while True:
            # in short waits, between which Python treats signals
            missing = barrier.await_all(self._counters, number, _WAIT_MS)
            if missing is None:
                return
            if not psutil.pid_exists(int(self._processes[missing])):
                raise ConnectionError(f"worker {missing} is gone; its own log says more.")
            if time.monotonic() - begun > _TIMEOUT_S:
                raise TimeoutError(
                    f"worker {missing} did not answer within {_TIMEOUT_S:.0f} s. It hangs; its "
                    "own log says more."
                )


class SharedSums:
    """Collectives on CPU tensors; every rank makes the same calls in the same order.

    torch.compile must not look inside: in place of writing a worker's own place it writes a changed
    copy of everybody's back, over what others have written since.
    """

    def __init__(self, world: World) -> None:
        """Maps the memory.

        Raises:
            OSError: on all ranks, where one of them cannot have it.
        """
        self._world = world
        self._memory = SharedMemory(world, [2 * world.size * _CHUNK_BYTES, 2 * _CHUNK_BYTES])
        # two of each, used in turn: a worker that writes one of them has passed a barrier since all
        # read it
        self._given = self._memory.regions[0].view(2, world.size, _CHUNK_BYTES)
        self._made = self._memory.regions[1].view(2, _CHUNK_BYTES)
        self._turn = 0

    @torch.compiler.disable
    def sum_(self, values: Tensor) -> Tensor:
        """Element-wise sum over all ranks, in place and in rank order: equal on all ranks."""
        flat = values.view(-1)
        chunk = _CHUNK_BYTES // values.element_size()
        with TIMER:
            for begin in range(0, flat.numel(), chunk):
                part = flat[begin : begin + chunk]
                given = self._give(part)
                if self._world.size > 2 and part.numel() > _SHARED_SUM:
                    self._sum_slices(given, part)
                else:
                    torch.sum(given, 0, out=part)
        return values

    @torch.compiler.disable
    def gather(self, values_N: Tensor) -> Tensor:
        """(W, N): the vectors of all W workers.

        Raises:
            ValueError: N is too large.
        """
        if values_N.numel() * values_N.element_size() > _CHUNK_BYTES:
            raise ValueError(f"{values_N.numel()} values are too many to gather")
        return self._give(values_N).clone()

    def average_gradients(self, bucket: dist.GradBucket) -> Future[Tensor]:
        """The work of a communication hook of DistributedDataParallel."""
        done: Future[Tensor] = Future()
        done.set_result(self.sum_(bucket.buffer()).div_(self._world.size))
        return done

    def _give(self, values: Tensor) -> Tensor:
        """(W, N): a view of what all workers have given."""
        self._turn = 1 - self._turn
        size = values.numel() * values.element_size()
        given = self._given[self._turn, :, :size].view(values.dtype)
        given[self._world.rank].copy_(values)
        self._memory.wait_for_all()
        return given

    def _sum_slices(self, given: Tensor, values: Tensor) -> None:
        number, workers, rank = values.numel(), self._world.size, self._world.rank
        made = self._made[self._turn, : number * values.element_size()].view(values.dtype)
        begin, end = number * rank // workers, number * (rank + 1) // workers
        torch.sum(given[:, begin:end], 0, out=made[begin:end])
        self._memory.wait_for_all()
        values.copy_(made)


def open_sums(world: World) -> SharedSums | None:
    """Collectives in shared memory, where all workers are on one machine and compute on its CPU.

    Every rank calls it. None, on all ranks, where it cannot be.
    """
    able = (
        world.size > 1
        and world.local_size == world.size
        and world.device.type == "cpu"
        and barrier.has_barrier()
        and sys.platform == "linux"
    )
    if not all_ranks(able):
        return None
    try:
        return SharedSums(world)
    except OSError as error:
        log.info("%s: workers use gloo", error)
        return None


def all_ranks(able: bool) -> bool:
    """True if it is true on all ranks."""
    agreed = torch.tensor(int(able))
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return bool(agreed)


def _map(size: int, world: World) -> Tensor:
    """(size,) uint8, zero, the same memory on all ranks.

    Raises:
        OSError: on all ranks.
    """
    if world.size == 1:
        return torch.zeros(size, dtype=torch.uint8)
    given: list[Any] = [None]
    made = -1
    try:
        if world.is_main:
            made = os.memfd_create("ctrdist", os.MFD_CLOEXEC)
            os.ftruncate(made, size)
            given = [(os.getpid(), made)]
    except OSError:
        pass  # all hear of it below
    dist.broadcast_object_list(given, src=0)
    result = None
    try:
        if given[0] is not None:
            process, descriptor = given[0]
            opened = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR)
            try:
                result = torch.frombuffer(mmap.mmap(opened, size), dtype=torch.uint8)
            finally:
                os.close(opened)
    except OSError:
        pass
    every = all_ranks(result is not None)
    if made >= 0:
        os.close(made)  # now that all have opened it
    if not every or result is None:
        raise OSError(f"no {size:,} bytes of shared memory between the workers")
    return result
