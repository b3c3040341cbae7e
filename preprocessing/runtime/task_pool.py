"""The interface of the pools that run tasks: processes of this machine, or workers of Ray."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

ENDED = object()
"""In place of a value: the task has yielded all its values."""


@dataclass(frozen=True)
class Failed:
    """In place of a value: the task has failed, or its worker has died."""

    error: BaseException
    """Raised by the task, or by the pool if the worker has died."""
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
