"""How long this worker's steps wait for other workers, whatever carries the exchange.

Shared memory's exchanges report themselves. Those of a process group (gloo, NCCL) are seen where
Python waits for one, and in the hook of DistributedDataParallel, which waits elsewhere. A profiler
would see them too, but crashed under data-parallel runs.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


class Exchanges:
    """A context around each exchange with other workers: sums the time, waiting included.

    On a GPU it is the time for which the stream that computes stands still, by events; only while
    :attr:`recording`, as events cost.
    """

    def __init__(self) -> None:
        self.recording = False
        """On a GPU, whether events are recorded now."""
        self.cuda = False
        """Whether exchanges are a GPU's."""
        self._depth, self._begun, self._seconds = 0, 0.0, 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._open: torch.cuda.Event | None = None

    def __enter__(self) -> None:
        # An exchange is made of others, and a backward pass has threads: but only one of them
        # exchanges at a time.
        if self._depth == 0:
            if not self.cuda:
                self._begun = time.perf_counter()
            elif self.recording:
                self._open = _event()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        if not self.cuda:
            self._seconds += time.perf_counter() - self._begun
        elif self._open is not None:
            self._events.append((self._open, _event()))
            self._open = None

    def add(self, seconds: float) -> None:
        """Counts time that was measured otherwise."""
        self._seconds += seconds

    def add_events(self, begun: torch.cuda.Event, ended: torch.cuda.Event) -> None:
        """Counts the time between two events of a GPU."""
        self._events.append((begun, ended))

    @property
    def seconds(self) -> float:
        """So far. On a GPU the caller has waited for the device."""
        for begun, ended in self._events:
            self._seconds += begun.elapsed_time(ended) / 1000
        self._events.clear()
        return self._seconds


EXCHANGES = Exchanges()
"""Of this process."""


def watch_process_group(
    module: torch.nn.Module, device: torch.device, *, gradients: bool = True
) -> None:
    """From now on the process group's collectives count; undone by :func:`forget_process_group`.

    Args:
        module: what is trained.
        device: where it computes.
        gradients: whether the process group averages its gradients, where it is a
            DistributedDataParallel: then no hook may be registered there yet.
    """
    EXCHANGES.cuda = device.type == "cuda"
    # The class's own method, and no object around it: TorchRec asks whether it has a Work, and does
    # not wait for anything else.
    if not hasattr(dist.Work.wait, "counted"):
        dist.Work.wait = _counting(dist.Work.wait)  # type: ignore[method-assign]
    if gradients and isinstance(module, DistributedDataParallel):
        # a lambda, as DDP refuses annotations that are strings
        module.register_comm_hook(_Averaging(), lambda state, bucket: state.average(bucket))


def forget_process_group() -> None:
    """Waiting is no longer counted."""
    EXCHANGES.cuda = False
    dist.Work.wait = getattr(dist.Work.wait, "counted", dist.Work.wait)  # type: ignore[method-assign]


def _counting(wait: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(wait)
    def counting(*args: Any, **kwargs: Any) -> Any:
        with EXCHANGES:
            return wait(*args, **kwargs)

    counting.counted = wait  # type: ignore[attr-defined]
    return counting


class _Averaging:
    """Averages gradients as DistributedDataParallel does, bucket by bucket during backward.

    What counts begins when the last bucket is full and ends when all have been averaged: until
    then it happens beside the computation.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._begun: Any = None

    def average(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """The hook of one bucket."""
        gradient = bucket.buffer().div_(dist.get_world_size())
        with self._lock:
            self._under_way += 1
            if bucket.is_last():
                self._begun = self._now()
        future = dist.all_reduce(gradient, async_op=True).get_future()
        return future.then(self._averaged)  # type: ignore[no-any-return]

    def _averaged(self, future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
        with self._lock:
            self._under_way -= 1
            if self._under_way == 0 and self._begun is not None:
                begun, self._begun = self._begun, None
                if EXCHANGES.cuda:
                    EXCHANGES.add_events(begun, _event())
                else:
                    EXCHANGES.add(time.perf_counter() - begun)
        return future.value()[0]

    def _now(self) -> Any:
        if EXCHANGES.cuda:
            return _event() if EXCHANGES.recording else None
        return time.perf_counter()


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
