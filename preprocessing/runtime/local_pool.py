"""Runs tasks in processes of this machine, without Ray: a small log is read before Ray is up."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from preprocessing.runtime.task_pool import ENDED, Failed


class LocalPool:
    """A pool of processes; see TaskPool. A handle is the future of all values of a task."""

    def __init__(self, workers: int) -> None:
        self.size = workers or len(os.sched_getaffinity(0))
        self._executor: ProcessPoolExecutor | None = None

    def share(self, value: Any) -> Any:
        """Returns the value: each task gets its own copy."""
        return value

    def start(self, task: Callable[..., Iterator[Any]], *arguments: Any) -> Future[list[Any]]:
        """Starts a task and returns its future."""
        if self._executor is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["preprocessing.pipeline"])
            self._executor = ProcessPoolExecutor(self.size, context, _prepare)
        try:
            return self._executor.submit(_all_values, task, arguments)
        except BrokenProcessPool:  # a worker has died
            self.close()
            return self.start(task, *arguments)

    def values(self, handles: Iterable[Any], seconds: float) -> Iterator[tuple[Any, Any]]:
        """Yields all values of the tasks that have ended."""
        for future in wait(handles, seconds, FIRST_COMPLETED).done:
            error = future.exception()
            if error is not None:
                yield future, Failed(error, isinstance(error, BrokenProcessPool))
                continue
            for value in future.result():
                yield future, value
            yield future, ENDED

    def stop(self, handles: Iterable[Any]) -> None:
        """Waits until the tasks have ended; those that have not begun do not begin."""
        for future in handles:
            future.cancel()
        wait(handles)

    def close(self) -> None:
        """Ends the processes."""
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None


def _all_values(task: Callable[..., Iterator[Any]], arguments: tuple[Any, ...]) -> list[Any]:
    return list(task(*arguments))


def _prepare() -> None:
    """Makes a worker ignore Ctrl-C, which its parent handles, and end when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
