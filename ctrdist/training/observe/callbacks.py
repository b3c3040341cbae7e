"""What hangs on to a run without being part of it: tracking, progress, tests.

Rank 0's callbacks are called, and those of other ranks that ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctrdist.training.loop.state import Progress

if TYPE_CHECKING:
    from ctrdist.training.build import Engine
    from ctrdist.training.loop.evaluate import Evaluation


@dataclass(frozen=True, kw_only=True)
class Started:
    """What is known when the first step is about to begin."""

    engine: Engine
    resumed_step: int
    """Step at which an earlier start of the run is continued; 0 for a new run."""
    steps_per_epoch: int
    dense_parameters: int
    table_parameters: int


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """A finished step."""

    progress: Progress
    epoch: int
    """Number of the epoch, from 0."""
    steps_left: int
    """In this epoch."""
    loss: float
    """Mean over the step's rows on all workers."""
    grad_norm: float
    """Before clipping; −1 where clipping is off."""
    learning_rates: dict[str, float]
    rows: int
    """Of the step, on all workers."""
    seconds: float
    """Of the step."""


class Callback:
    """Does nothing; override what you need. An exception from a callback ends the run."""

    on_all_ranks = False
    """Whether it is called on every rank, at the same points, so that it may use collectives."""

    def on_start(self, event: Started) -> None:
        """Before the first step."""

    def on_step(self, event: Stepped) -> None:
        """After each step."""

    def on_epoch_end(self, progress: Progress, epoch: int) -> None:
        """After an epoch's last step, or the last one of the run, before the evaluation."""

    def on_evaluate(
        self, split: str, evaluation: Evaluation, progress: Progress, epoch: int, train_loss: float
    ) -> None:
        """After a split was evaluated."""

    def on_checkpoint(self, path: str, progress: Progress, seconds: float) -> None:
        """After a checkpoint is whole."""

    def on_end(self, summary: dict[str, Any]) -> None:
        """After the test split was evaluated."""

    def on_failure(self, error: BaseException) -> None:
        """When the run breaks off."""


class Callbacks(Callback):
    """Several callbacks as one, in order."""

    def __init__(self, callbacks: list[Callback]) -> None:
        self._all = callbacks

    def on_start(self, event: Started) -> None:
        """Tells each callback."""
        for callback in self._all:
            callback.on_start(event)

    def on_step(self, event: Stepped) -> None:
        """Tells each callback."""
        for callback in self._all:
            callback.on_step(event)

    def on_epoch_end(self, progress: Progress, epoch: int) -> None:
        """Tells each callback."""
        for callback in self._all:
            callback.on_epoch_end(progress, epoch)

    def on_evaluate(
        self, split: str, evaluation: Evaluation, progress: Progress, epoch: int, train_loss: float
    ) -> None:
        """Tells each callback."""
        for callback in self._all:
            callback.on_evaluate(split, evaluation, progress, epoch, train_loss)

    def on_checkpoint(self, path: str, progress: Progress, seconds: float) -> None:
        """Tells each callback."""
        for callback in self._all:
            callback.on_checkpoint(path, progress, seconds)

    def on_end(self, summary: dict[str, Any]) -> None:
        """Tells each callback."""
        for callback in self._all:
            callback.on_end(summary)

    def on_failure(self, error: BaseException) -> None:
        """Tells each callback."""
        for callback in self._all:
            callback.on_failure(error)
