"""Decides whether workers are started again after a failure, and names the failure's reason."""

import re
import time
from typing import Any

import ray
from ray.train import UserCallback

from cluster.ray_train_internals import ControllerCallback, WorkerHealthCheckFailedError
from cluster.run_mailbox import END_RUN
from cluster.worker import ToldToStop
from ctrdist.errors import UserError
from ctrdist.training.faults.transient import may_pass
from ctrdist.training.observe.messages import Failure

_RESIZE_SECONDS = 600.0
_CONNECTION = re.compile(r"connection (closed|reset|refused)|broken pipe|nccl|timed out", re.I)


class RestartPolicy(UserCallback):
    """Reports failed workers to the driver; ends the run where a restart is of no use.

    Workers are started again after `max_restarts` failures; −1: without bound. An error that would
    come again ends the run at once.
    """

    def __init__(self, mailbox: Any, max_restarts: int) -> None:
        self._mailbox, self._max = mailbox, max_restarts
        self._failures = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train, which starts the workers again unless this raises their error."""
        rank, error = first_failure(worker_exceptions)
        if isinstance(error, UserError):
            raise error
        told = isinstance(error, ToldToStop)
        self._failures += not told  # a node that leaves is no failure of the run
        final = (
            ray.get(self._mailbox.stop_reason.remote()) == END_RUN
            or self._max == 0
            or 0 < self._max < self._failures
            or comes_again(error)
        )
        message = Failure(
            rank=rank,
            reason=failure_reason(error),
            out_of_memory=is_killed_for_memory(error),
            told_to_stop=told,
            final=final,
            restarts=self._failures,
            max_restarts=self._max,
        )
        ray.get(self._mailbox.push.remote(message))
        if final:
            raise error
        ray.get(self._mailbox.forget_stop.remote())


class CheckpointBeforeResize(ControllerCallback):
    """Makes workers write a checkpoint before Ray Train changes their number."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Called by Ray Train before it starts workers, also for the first time."""
        if not ray.get(self._mailbox.training.remote()):
            return
        why = f"the cluster now has room for {resize_decision.num_workers} workers"
        ray.get(self._mailbox.ask_to_stop.remote(why))
        deadline = time.monotonic() + _RESIZE_SECONDS
        while ray.get(self._mailbox.training.remote()) and time.monotonic() < deadline:
            time.sleep(0.2)
        ray.get(self._mailbox.forget_stop.remote())


def first_failure(exceptions: dict[int, Exception]) -> tuple[int, Exception]:
    """Rank and error of the worker that failed first; the others only lost their connection."""

    def order(item: tuple[int, Exception]) -> int:
        error = item[1]
        if isinstance(error, UserError):
            return 0
        if isinstance(error, WorkerHealthCheckFailedError):
            return 1
        return 2 if comes_again(error) or isinstance(error, ToldToStop) else 3

    return min(exceptions.items(), key=order)


def comes_again(error: Exception) -> bool:
    """True if the workers would meet the error again, as it is one of code, settings or data."""
    died = isinstance(error, WorkerHealthCheckFailedError | ToldToStop)
    return not died and not may_pass(error)


def failure_reason(error: Exception) -> str:
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
    """Returns True if Ray's memory monitor has killed the worker."""
    return isinstance(error, WorkerHealthCheckFailedError) and "low on memory" in _cause(error)


def _cause(error: WorkerHealthCheckFailedError) -> str:
    return " ".join(str(error.health_check_failure).split())
