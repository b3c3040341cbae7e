"""Runs tasks in the workers of Ray.

Ray tasks rather than Ray Data: docs/decisions.md says why.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import ray

from preprocessing.runtime.task_pool import ENDED, Failed

_DIED = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.ObjectLostError,
)


class RayPool:
    """A pool of the connected Ray; see TaskPool. A handle is the task's generator."""

    def __init__(self, workers: int) -> None:
        self.size = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._remote: Any = ray.remote(num_cpus=1, num_returns="streaming", max_retries=0)

    def share(self, value: Any) -> Any:
        """Returns a reference, which Ray resolves."""
        return ray.put(value)

    def start(self, task: Callable[..., Iterator[Any]], *arguments: Any) -> Any:
        """Starts a task and returns its generator."""
        return self._remote(task).remote(*arguments)

    def values(self, handles: Iterable[Any], seconds: float) -> Iterator[tuple[Any, Any]]:
        """Yields the next value of a task that has one."""
        ready: list[Any] = ray.wait(list(handles), num_returns=1, timeout=seconds)[0]
        for generator in ready:
            value: Any
            try:
                value = ray.get(next(generator))
            except StopIteration:
                value = ENDED
            except ray.exceptions.RayTaskError as error:
                cause = error.cause or error
                if cause is not error:
                    cause.__cause__ = error  # its text has the traceback of the worker
                value = Failed(cause, worker_died=False)
            except _DIED as error:
                value = Failed(error, worker_died=True)
            yield generator, value

    def stop(self, handles: Iterable[Any]) -> None:
        """Cancels tasks and waits until they have ended."""
        generators = list(handles)
        for generator in generators:
            # A task is cancelled only once it runs: Ray 2.60 may abort the whole process, by a
            # check of its own, where a task is cancelled after it was submitted and before a worker
            # has it.
            ray.wait([generator], timeout=30)
            ray.cancel(generator, force=True)
        for generator in generators:
            with suppress(StopIteration, ray.exceptions.RayError):
                while True:
                    ray.get(next(generator), timeout=30)

    def close(self) -> None:
        """Does nothing: Ray ends with this process, or belongs to a cluster."""
