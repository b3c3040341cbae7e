"""Runs tasks in processes of this machine, without Ray: a small log is read before Ray is up."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from preprocessing.runtime.task_pool import ENDED, Failed

_VALUE, _ENDED, _FAILED = "value", "ended", "failed"


class LocalPool:
    """A pool of processes; see TaskPool. A handle is the worker that runs the task."""

    def __init__(self, workers: int) -> None:
        self.size = workers or len(os.sched_getaffinity(0))
        self._idle: list[_Worker] = []

    def share(self, value: Any) -> Any:
        """Returns the value: each task gets its own copy."""
        return value

    def start(self, task: Callable[..., Iterator[Any]], *arguments: Any) -> _Worker:
        """Starts a task in an idle or a new worker, and returns the worker."""
        while self._idle:
            worker = self._idle.pop()
            try:
                worker.pipe.send((task, arguments))
            except OSError:  # it has died since
                worker.end()
            else:
                return worker
        worker = _Worker()
        worker.pipe.send((task, arguments))
        return worker

    def values(self, handles: Iterable[_Worker], seconds: float) -> Iterator[tuple[_Worker, Any]]:
        """Yields a value of each task that has one."""
        by_pipe = {worker.pipe: worker for worker in handles}
        for pipe in wait(list(by_pipe), seconds):
            worker, value = by_pipe[pipe], None  # type: ignore[index]
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, OSError):
                worker.end()
                kind, value = _FAILED, Failed(WorkerDied(worker.process.exitcode), True)
            else:
                if kind != _VALUE:
                    self._idle.append(worker)
            yield worker, ENDED if kind == _ENDED else value

    def stop(self, handles: Iterable[_Worker]) -> None:
        """Kills the tasks' workers: every file that they write appears whole or not at all."""
        for worker in handles:
            worker.end()

    def close(self) -> None:
        """Ends the idle workers."""
        self.stop(self._idle)
        self._idle.clear()


class WorkerDied(Exception):
    """A worker process has ended; the argument is its exit code."""


class _Worker:
    """A process that runs one task after another, and the pipe to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["preprocessing.pipeline"])
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there,))
        self.process.start()
        there.close()

    def end(self) -> None:
        """Kills the process and waits until it has ended."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection) -> None:
    """Runs tasks in a worker's process, and sends what they yield."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group of processes
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    while True:
        task, arguments = pipe.recv()
        try:
            for value in task(*arguments):
                pipe.send((_VALUE, value))
        except BaseException as error:
            pipe.send((_FAILED, Failed(_portable(error), False)))
        else:
            pipe.send((_ENDED, None))


def _portable(error: BaseException) -> BaseException:
    """The error with the traceback of this process, as far as it can go to another process."""
    text = traceback.format_exc()
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # what its constructor raises for other arguments is not known
        return RuntimeError(text)
    copy.add_note(f"in the worker:\n{text}")
    return copy


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
