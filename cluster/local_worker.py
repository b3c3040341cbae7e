"""The worker of a run with one worker on this machine: a process of its own, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from cluster.run_monitor import RunMonitor
from cluster.worker_task import WorkerTask
from ctrdist.training.faults.stopping import Interrupted, StopRequest
from ctrdist.training.faults.transient import may_pass
from ctrdist.training.observe import messages

_RAISED, _MAY_PASS, _TOLD = 1, 75, 128 + signal.SIGTERM
"""Exit codes of the worker."""


class LocalWorker(threading.Thread):
    """Starts the worker, and starts it again from its last checkpoint if its process has died.

    It is started again at most `max_restarts` times; −1: without bound. An exception that would
    come again ends the run at once. Use as a context.
    """

    def __init__(self, task: WorkerTask, max_restarts: int) -> None:
        super().__init__(name="local-worker", daemon=True)
        self.error: BaseException | None = None
        """The exception of the worker, where that ended the run."""
        self.ended = threading.Event()
        self._task, self._max = task, max_restarts
        self._messages: queue.SimpleQueue[messages.Message] = queue.SimpleQueue()
        self._asked = False
        self._process: Any = None

    def __enter__(self) -> LocalWorker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._asked = True
        if self._process is not None and self._process.is_alive():
            self._process.kill()

    def ask_to_stop(self) -> None:
        """Makes the worker write a checkpoint and end."""
        self._asked = True
        if self._process is not None:
            self._process.terminate()

    def drain(self) -> list[messages.Message]:
        """Returns the messages since the last call."""
        found = []
        while not self._messages.empty():
            found.append(self._messages.get())
        return found

    def check(self, monitor: RunMonitor) -> None:
        """Does nothing: a process is all there is."""

    def run(self) -> None:
        """Runs the worker until it has ended for good."""
        failures = 0
        try:
            while True:
                self.error = None
                code = self._run_once()
                told = code == _TOLD
                if code in (0, _RAISED) or (told and self._asked):
                    return
                failures += not told
                final = self._asked or self._max == 0 or 0 < self._max < failures
                self._messages.put(
                    messages.Failure(
                        rank=0,
                        reason="a worker received SIGTERM" if told else _reason(code),
                        out_of_memory=False,
                        told_to_stop=told,
                        final=final,
                        restarts=failures,
                        max_restarts=self._max,
                    )
                )
                if final:
                    return
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()

    def _run_once(self) -> int:
        """Runs one process of the worker and returns its exit code."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(self._task, there))
        self._process.start()
        there.close()
        try:
            while True:
                message = here.recv()
                if isinstance(message, messages.Crash):
                    self.error = RuntimeError(message.traceback)
                self._messages.put(message)
        except EOFError:
            pass
        self._process.join()
        return self._process.exitcode


def _work(task: WorkerTask, pipe: Connection) -> None:
    """Runs the task in the worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group of processes
    stop = StopRequest()
    stop.listen(signal.SIGTERM)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    code = 0
    try:
        task.run(0, None, _locked(pipe.send), stop)
    except Interrupted:
        code = _TOLD
    except BaseException as error:
        code = _MAY_PASS if may_pass(error) else _RAISED
    pipe.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once; all that must be written is written


def _locked(send: Callable[[Any], None]) -> messages.Emit:
    """A function that several threads may call."""
    lock = threading.Lock()

    def emit(message: messages.Message) -> None:
        with lock:
            send(message)

    return emit


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, as the system does where memory is short"
    if code == _MAY_PASS:
        return "a store, a connection or a device failed"
    return f"its process ended with code {code}"
