"""Measures how long this worker's steps wait for other workers, whatever carries the data.

Shared-memory collectives report themselves. For a process group (gloo, NCCL) the time is taken
where Python waits for a collective, and in the hook of DistributedDataParallel, which waits
elsewhere. A profiler would see them too, but crashed under data-parallel runs.

One method of torch is patched for this: `torch.distributed.Work.wait` (torch 2.13). PyTorch offers
no hook on it, and TorchRec waits for its collectives there. tests/distributed/test_throughput.py
fails if waiting goes another way.
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


class CommunicationTimer:
    """A context for communication with other workers: sums the time in it, waiting included.

    On a GPU the sum is the time for which the computing stream stands still, taken by events; only
    while :attr:`recording`, as events cost time.
    """

    def __init__(self) -> None:
        self.recording = False
        """On a GPU, True while events are recorded."""
        self.cuda = False
        """True if the collectives are a GPU's."""
        self._depth, self._seconds = 0, 0.0
        self._begun: float | torch.cuda.Event | None = None
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        # Collectives may be nested. A backward pass has threads, but only one of them communicates
        # at a time.
        if self._depth == 0:
            self._begun = self.now()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.add(self._begun)

    def now(self) -> float | torch.cuda.Event | None:
        """A time that :meth:`add` takes: None on a GPU while nothing is recorded."""
        if not self.cuda:
            return time.perf_counter()
        return _event() if self.recording else None

    def add(self, begun: float | torch.cuda.Event | None) -> None:
        """Adds the time from `begun` until now."""
        if isinstance(begun, float):
            self._seconds += time.perf_counter() - begun
        elif begun is not None:
            self._events.append((begun, _event()))

    @property
    def seconds(self) -> float:
        """The sum so far. On a GPU the caller has waited for the device."""
        for begun, ended in self._events:
            self._seconds += begun.elapsed_time(ended) / 1000
        self._events.clear()
        return self._seconds


TIMER = CommunicationTimer()
"""The timer of this process."""


def time_process_group(
    module: torch.nn.Module, device: torch.device, *, gradients: bool = True
) -> None:
    """Starts to time the process group's collectives; :func:`stop_timing` undoes it.

    Also the averaging of the module's `gradients`, where the process group does it: a
    DistributedDataParallel must not have a communication hook yet.
    """
    TIMER.cuda = device.type == "cuda"
    # The class's own method, and no object around the work: TorchRec waits only for what is a Work.
    if not hasattr(dist.Work.wait, "untimed"):
        dist.Work.wait = _timed(dist.Work.wait)  # type: ignore[method-assign]
    if gradients and isinstance(module, DistributedDataParallel):
        # a lambda, as DDP refuses annotations that are strings
        module.register_comm_hook(_Averaging(), lambda state, bucket: state.average(bucket))


def stop_timing() -> None:
    """Stops to time the process group's collectives."""
    TIMER.cuda = False
    dist.Work.wait = getattr(dist.Work.wait, "untimed", dist.Work.wait)  # type: ignore[method-assign]


def _timed(wait: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(wait)
    def timed(*args: Any, **kwargs: Any) -> Any:
        with TIMER:
            return wait(*args, **kwargs)

    timed.untimed = wait  # type: ignore[attr-defined]
    return timed


class _Averaging:
    """Averages gradients as DistributedDataParallel does, bucket by bucket during backward.

    The time counts from when the last bucket is full until all are averaged. Before that, the
    averaging overlaps with the computation.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending = 0
        self._begun: Any = None

    def average(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Averages one bucket."""
        gradient = bucket.buffer().div_(dist.get_world_size())
        with self._lock:
            self._pending += 1
            if bucket.is_last():
                self._begun = TIMER.now()
        future = dist.all_reduce(gradient, async_op=True).get_future()
        return future.then(self._averaged)  # type: ignore[no-any-return]

    def _averaged(self, future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
        with self._lock:
            self._pending -= 1
            if self._pending == 0 and self._begun is not None:
                TIMER.add(self._begun)
                self._begun = None
        return future.value()[0]


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
