"""Where the tasks of a pass run: in processes of this machine, or in workers of Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

LOCAL_BYTES = 2**28
"""Largest log that is read without Ray; the start of Ray takes as long as half of it."""

ENDED = object()
"""In place of a value: the task has yielded all its values."""


@dataclass(frozen=True)
class Failed:
    """In place of a value: the task has failed, or its worker has died."""

    error: BaseException
    """What the task has raised, or the pool where its worker has died."""
    worker_died: bool


class TaskPool(Protocol):
    """Runs tasks, which are generators, in worker processes."""

    size: int
    """Tasks that can run at a time."""

    def share(self, value: Any) -> Any:
        """Returns what to give to tasks as an argument in place of a large value."""
        ...

    def start(self, task: Callable[..., Iterator[Any]], *arguments: Any) -> Any:
        """Starts a task and returns its handle."""
        ...

    def values(self, handles: Iterable[Any], seconds: float) -> Iterator[tuple[Any, Any]]:
        """Waits up to some seconds; yields handles with the values that their tasks have yielded.

        The last value of a task is ENDED or a Failed.
        """
        ...

    def stop(self, handles: Iterable[Any]) -> None:
        """Ends tasks and waits until they have ended: nothing is written after this."""
        ...

    def close(self) -> None:
        """Ends the worker processes that the pool has started."""
        ...


def open_pool(total_bytes: int, workers: int, connect: Callable[[], None] | None) -> TaskPool:
    """Opens the pool for an input of some bytes.

    Args:
        total_bytes: of the input files.
        workers: most tasks at a time; 0: one per CPU.
        connect: connects to Ray; None: Ray is connected and is to be used.
    """
    if connect is not None:
        if total_bytes <= LOCAL_BYTES and not os.environ.get("RAY_ADDRESS"):
            from preprocessing.runtime.local_pool import LocalPool

            return LocalPool(workers)
        connect()
    from preprocessing.runtime.ray_pool import RayPool

    return RayPool(workers)
