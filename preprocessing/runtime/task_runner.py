"""Runs generator tasks in Ray's workers, some at a time, and starts those again whose worker died.

Ray tasks rather than Ray Data: docs/decisions.md says why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from ctrdist.errors import DataError, UserError
from ctrdist.storage import is_storage_error
from preprocessing.runtime.progress import Progress
from preprocessing.runtime.work_dir import Work, stamped

ATTEMPTS = 4
"""How often a task may be started whose worker dies under it."""

logger = logging.getLogger(__name__)
_DIED = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.ObjectLostError,
)
_RETRIED = (*_DIED, ray.exceptions.RayTaskError)
_PASSING = {
    "ConnectionError",
    "TimeoutError",
    "EndpointConnectionError",
    "ConnectionClosedError",
    "HTTPClientError",
    "ClientConnectionError",
    "ClientPayloadError",
}
"""Classes of errors, some of them of libraries that only some stores need."""


@dataclass(frozen=True)
class Step:
    """A part of a task is done."""

    rows: int
    bytes: int
    """Of the file as it is stored."""


@dataclass
class _Running:
    index: int
    rows: int = 0
    bytes: int = 0


def run_all(
    task: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    names: Sequence[str],
    progress: Progress,
    workers: int,
    finished: Callable[[int], None] = lambda index: None,
) -> list[Any]:
    """Runs a generator for each call, some at a time, in Ray's workers.

    Args:
        task: yields steps and its result last; may be run again from its start at any time.
        calls: the arguments of each; object references are resolved.
        names: of each call, for messages.
        progress: is told of the steps.
        workers: how many at a time; 0: one per CPU.
        finished: is told of each call that is done.

    Returns:
        The results in the order of the calls.

    Raises:
        UserError: the first that a task raised; the others have ended by then. Or a task whose
            worker died each time.
    """
    remote = ray.remote(num_cpus=1, num_returns="streaming", max_retries=0)(task)
    limit = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    results: list[Any] = [None] * len(calls)
    attempts = [0] * len(calls)
    waiting = list(range(len(calls)))[::-1]
    running: dict[Any, _Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                index = waiting.pop()
                attempts[index] += 1
                running[remote.remote(*calls[index])] = _Running(index)
            ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
            for generator in ready:
                mine = running[generator]
                try:
                    value = ray.get(next(generator))
                except StopIteration:
                    del running[generator]
                    continue
                except _RETRIED as error:
                    if not _may_pass(error):
                        raise
                    del running[generator]
                    progress.advance(-mine.rows, -mine.bytes)
                    _again(names[mine.index], attempts[mine.index], error)
                    waiting.append(mine.index)
                    continue
                if isinstance(value, Step):
                    mine.rows += value.rows
                    mine.bytes += value.bytes
                    progress.advance(value.rows, value.bytes)
                else:
                    results[mine.index] = value
                    finished(mine.index)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError) or is_storage_error(error.cause):
            raise error.cause from None
        raise
    finally:
        _stop(list(running))
    return results


class Runner:
    """Runs the passes of one run: what is marked as done is not done again."""

    def __init__(self, work: Work, workers: int, stamp: str) -> None:
        self._work = work
        self.stamp = stamp
        """Of the files of the run: what was made of others is not done."""
        self._workers = workers
        work.store.retry_unreachable()
        work.keep_only(stamp)
        self.done = work.marks()
        """Marks of the tasks that are done."""
        self.seconds: dict[str, float] = {}
        """Of each pass of this run."""
        self.passed: list[tuple[str, int, int]] = []
        """(title, tasks that are done, all of them) of each pass that was begun."""

    def run(
        self,
        title: str,
        task: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        marks: Sequence[str],
        names: Sequence[str],
        total_bytes: int | None = None,
    ) -> list[dict[str, Any]]:
        """Runs a pass.

        Args:
            title: of the pass.
            task: see :func:`run_all`; marks itself as done.
            calls: the arguments of each.
            marks: of each call.
            names: of each call, for messages.
            total_bytes: what the tasks' steps add up to; None: tasks are counted.

        Returns:
            The summaries, in the order of the calls.
        """
        start = time.monotonic()
        results = [self._work.summary(m) if m in self.done else None for m in marks]
        missing = [k for k, found in enumerate(results) if found is None]
        if missing:
            total = len(missing) if total_bytes is None else total_bytes
            place = len(self.passed)
            self.passed.append((title, len(marks) - len(missing), len(marks)))

            def finished(k: int) -> None:
                self.done.add(marks[missing[k]])
                self.passed[place] = (title, self.passed[place][1] + 1, len(marks))
                if total_bytes is None:
                    progress.advance(0, 1)

            with Progress(title, total, parts=total_bytes is None) as progress:
                new = run_all(
                    task,
                    [calls[k] for k in missing],
                    [names[k] for k in missing],
                    progress,
                    self._workers,
                    finished,
                )
            for k, summary in zip(missing, new, strict=True):
                results[k] = summary
        self.seconds[title] = self.seconds.get(title, 0.0) + time.monotonic() - start
        return results  # type: ignore[return-value]

    def mark(self, task: str) -> str:
        """The mark of a task of these files."""
        return stamped(task, self.stamp)

    def first_time(self, mark: str) -> bool:
        """Whether something is not marked as done."""
        return mark not in self.done


def _may_pass(error: Exception) -> bool:
    """Whether the same may succeed later: the worker died, or a store was not to be reached."""
    if not isinstance(error, ray.exceptions.RayTaskError):
        return True
    cause = error.cause
    kinds = {kind.__name__ for kind in type(cause).__mro__}
    return bool(kinds & _PASSING)


def _again(name: str, attempt: int, error: Exception) -> None:
    """Says that a task starts again, after a while, or that it may not."""
    if isinstance(error, ray.exceptions.RayTaskError):
        if attempt == ATTEMPTS:
            raise error
        logger.warning("%s: %s; it is done again", name, error.cause)
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


def _stop(generators: list[Any]) -> None:
    """Ends tasks, and waits until they have: nothing is written after this."""
    for generator in generators:
        # Only once it runs: Ray (2.60) may abort the whole process, by a check of its own, where a
        # task is cancelled between being submitted and being sent to its worker.
        ray.wait([generator], timeout=30)
        ray.cancel(generator, force=True)
    for generator in generators:
        with suppress(StopIteration, ray.exceptions.RayError):
            while True:
                ray.get(next(generator), timeout=30)
