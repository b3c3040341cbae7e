"""Runs generator tasks in Ray's workers, some at a time, and starts those again whose worker died.

Ray tasks rather than Ray Data: docs/decisions.md says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from ctrdist.errors import DataError, UserError
from preprocessing.progress import Progress

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
) -> list[Any]:
    """Runs a generator for each call, some at a time, in Ray's workers.

    Args:
        task: yields steps and its result last; may be run again from its start at any time.
        calls: the arguments of each; object references are resolved.
        names: of each call, for messages.
        progress: is told of the steps.
        workers: how many at a time; 0: one per CPU.

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
                except _DIED as error:
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
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError | OSError):
            raise error.cause from None
        raise
    finally:
        _stop(list(running))
    return results


def _again(name: str, attempt: int, error: Exception) -> None:
    """Says that a task starts again, or that it may not."""
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
