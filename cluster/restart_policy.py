"""What Ray Train's controller does when a worker fails, and how that is told to a person."""

from __future__ import annotations

import re
import time
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback

from cluster.run_mailbox import FOR_GOOD
from cluster.worker import ToldToStop
from ctrdist.errors import UserError
from ctrdist.training.observe.messages import Failure

_RESIZE_SECONDS = 600.0
_CONNECTION = re.compile(r"connection (closed|reset|refused)|broken pipe|nccl|timed out", re.I)


class Failures(UserCallback):
    """Tells the driver which worker failed and why; ends the run where starting again is no use."""

    def __init__(self, channel: Any, max_restarts: int) -> None:
        """Counts from here.

        Args:
            channel: to the driver.
            max_restarts: how many failures workers are started again after; −1: any number.
        """
        self._channel, self._max = channel, max_restarts
        self._failures = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train, which starts the workers again unless this raises.

        Raises:
            Exception: the worker's, where they are not to be started again.
        """
        rank, error = culprit(worker_exceptions)
        if isinstance(error, UserError):
            raise error
        told = isinstance(error, ToldToStop)
        self._failures += not told  # a node that is taken away is no failure of the run
        final = (
            ray.get(self._channel.stop_reason.remote()) == FOR_GOOD
            or self._max == 0
            or 0 < self._max < self._failures
        )
        message = Failure(
            rank=rank,
            reason=reason(error),
            out_of_memory=is_killed_for_memory(error),
            told_to_stop=told,
            final=final,
            restarts=self._failures,
            max_restarts=self._max,
        )
        ray.get(self._channel.push.remote(message))
        if final:
            raise error
        ray.get(self._channel.forget_stop.remote())


class Resizing(ControllerCallback):
    """Lets workers write a checkpoint before Ray Train replaces them by more or fewer."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Called by Ray Train before it starts workers, also for the first time."""
        if not ray.get(self._channel.training.remote()):
            return
        why = f"the cluster now has room for {resize_decision.num_workers} workers"
        ray.get(self._channel.ask_to_stop.remote(why))
        deadline = time.monotonic() + _RESIZE_SECONDS
        while ray.get(self._channel.training.remote()) and time.monotonic() < deadline:
            time.sleep(0.2)
        ray.get(self._channel.forget_stop.remote())


def culprit(exceptions: dict[int, Exception]) -> tuple[int, Exception]:
    """The worker that began it: the others only lost their connection to it."""

    def order(item: tuple[int, Exception]) -> int:
        error = item[1]
        if isinstance(error, UserError):
            return 0
        if isinstance(error, WorkerHealthCheckFailedError):
            return 1
        return 3 if _CONNECTION.search(str(error)) else 2

    return min(exceptions.items(), key=order)


def reason(error: Exception) -> str:
    """Why a worker failed, in a few words."""
    if isinstance(error, WorkerHealthCheckFailedError):
        text = _cause(error)
        if is_killed_for_memory(error):
            return text
        if re.search(r"node (\S+ )?(has )?(died|was)|its node|drain", text, re.I):
            return "its node is gone"
        return "its process was killed or crashed"
    if _CONNECTION.search(str(error)):
        return "it lost the connection to another worker"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0][:300] if lines else "no message"
    return text if isinstance(error, ToldToStop) else f"{type(error).__name__}: {text}"


def is_killed_for_memory(error: Exception) -> bool:
    """Whether Ray's memory monitor has killed the worker."""
    return isinstance(error, WorkerHealthCheckFailedError) and "low on memory" in _cause(error)


def _cause(error: WorkerHealthCheckFailedError) -> str:
    return " ".join(str(error.health_check_failure).split())
