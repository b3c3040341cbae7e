"""Runs the tasks of passes in a pool, and runs those again whose worker died."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from ctrdist.errors import DataError
from preprocessing.runtime.progress import Progress
from preprocessing.runtime.task_pool import ENDED, Failed, TaskPool
from preprocessing.runtime.work_dir import WorkDir

ATTEMPTS = 4
"""Attempts of a task whose worker dies, or that cannot reach a store."""

logger = logging.getLogger(__name__)
T = TypeVar("T")
_TRANSIENT = {
    "ConnectionError",
    "TimeoutError",
    "EndpointConnectionError",
    "ConnectionClosedError",
    "HTTPClientError",
    "ClientConnectionError",
    "ClientPayloadError",
}
"""Names of classes of errors that may not occur again. Some are of libraries that only some stores
need, so they are not imported."""


@dataclass(frozen=True)
class Step:
    """Progress of a task: rows that it finished, and their bytes as they are stored."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class Call:
    """One call of a task."""

    mark: str
    """Name under which the work directory keeps its result."""
    name: str
    """For messages to the user."""
    arguments: tuple[Any, ...]
    """For the task; what the pool shares is resolved."""


@dataclass
class _Running:
    index: int
    rows: int = 0
    bytes: int = 0

    def add(self, step: Step, progress: Progress) -> None:
        self.rows += step.rows
        self.bytes += step.bytes
        progress.advance(step.rows, step.bytes)


class TaskRunner:
    """Runs the passes of one run. A task that is marked as done is not run again."""

    def __init__(self, work: WorkDir, pool: TaskPool, stamp: str) -> None:
        """Forgets what was done for input files of another stamp."""
        self._work = work
        self.pool = pool
        """The pool that runs the tasks."""
        self._stamp = stamp
        work.store.retry_unreachable()
        work.keep_only(stamp)
        self.done = work.marks()
        """Marks of the tasks that are done."""
        self.seconds: dict[str, float] = {}
        """Seconds of each pass of this run."""
        self._passes: dict[str, Sequence[Call]] = {}

    def run(
        self,
        title: str,
        task: Callable[..., Any],
        calls: Sequence[Call],
        kind: type[T],
        total_bytes: int | None = None,
    ) -> list[T]:
        """Runs a pass, and marks each of its tasks as done.

        Args:
            title: of the pass, for messages.
            task: returns a message, or yields steps and a message last; may be run again from its
                start at any time.
            calls: of the task.
            kind: class of the results.
            total_bytes: sum of all steps' bytes; None: progress is counted in tasks.

        Returns:
            The results in the order of the calls.

        Raises:
            UserError: the first of a task, or a worker died at each attempt. All tasks have ended.
        """
        start = time.monotonic()
        results: list[Any] = [None] * len(calls)
        missing = [k for k, call in enumerate(calls) if call.mark not in self.done]
        for k in set(range(len(calls))).difference(missing):
            results[k] = self._work.result(calls[k].mark, kind)
        if missing:
            self._passes[title] = calls
            total = len(missing) if total_bytes is None else total_bytes
            with (
                Progress(title, total, parts=total_bytes is None) as progress,
                closing(self._run_all(task, calls, missing, progress)) as finished,
            ):
                for k, result in finished:
                    results[k] = result
                    self.done.add(calls[k].mark)
                    if total_bytes is None:
                        progress.advance(0, 1)
        self.seconds[title] = self.seconds.get(title, 0.0) + time.monotonic() - start
        return results

    def mark(self, task: str) -> str:
        """The mark of a task whose result holds for this run's input files alone."""
        return f"{task}@{self._stamp}"

    def call(self, task: str, name: str, *arguments: Any) -> Call:
        """A call of a task, with the mark of :meth:`mark`."""
        return Call(self.mark(task), name, arguments)

    def done_so_far(self) -> str:
        """Sentences that say which passes are done, with a blank; empty before the first pass."""
        texts = []
        for title, calls in self._passes.items():
            done, total = sum(call.mark in self.done for call in calls), len(calls)
            part = "" if done == total else f" for {done:,} of {total:,} parts"
            texts.append(f"{title} is done{part}")
        return f"{', '.join(texts)}; what comes after is not. " if texts else ""

    def _run_all(
        self,
        task: Callable[..., Any],
        calls: Sequence[Call],
        missing: list[int],
        progress: Progress,
    ) -> Generator[tuple[int, Any]]:
        """Runs the missing calls; yields the index and the result of each as it ends."""
        attempts = dict.fromkeys(missing, 0)
        waiting = missing[::-1]
        running: dict[Any, _Running] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.pool.size:
                    index = waiting.pop()
                    attempts[index] += 1
                    call = calls[index]
                    arguments = (self._work, call.mark, task, *call.arguments)
                    running[self.pool.start(_run_and_mark, *arguments)] = _Running(index)
                for handle, value in self.pool.values(running, 1.0):
                    mine = running[handle]
                    if value is ENDED:
                        del running[handle]
                    elif isinstance(value, Step):
                        mine.add(value, progress)
                    elif isinstance(value, Failed):
                        del running[handle]
                        mine.add(Step(-mine.rows, -mine.bytes), progress)
                        _check_attempts(calls[mine.index].name, attempts[mine.index], value)
                        waiting.append(mine.index)
                    else:
                        yield mine.index, value
        finally:
            self.pool.stop(list(running))


def _run_and_mark(
    work: WorkDir, mark: str, task: Callable[..., Any], *arguments: Any
) -> Iterator[Any]:
    """Runs a task in a worker, and marks it as done once it has its result."""
    result = task(*arguments)
    for value in result if isinstance(result, Iterator) else [result]:
        if not isinstance(value, Step):
            work.mark(mark, value)
        yield value


def _check_attempts(name: str, attempt: int, failed: Failed) -> None:
    """Logs that a task starts again, and waits if a store failed; raises the error if it must not.

    The same task may succeed later if its worker died or if no store answered.
    """
    error = failed.error
    if not failed.worker_died:
        transient = any(kind.__name__ in _TRANSIENT for kind in type(error).__mro__)
        if not transient or attempt == ATTEMPTS:
            raise error
        logger.warning("%s: %s; it is done again", name, error)
        time.sleep(2.0**attempt)
        return
    kind = type(error).__name__
    if attempt < ATTEMPTS:
        logger.warning("%s: its worker died (%s); it is done again", name, kind)
        return
    raise DataError(
        f"{name}: its worker died {attempt} times ({kind}). The node is short of memory, or its "
        "logs tell why; give fewer --workers, or a smaller --shard_bytes."
    )
