"""The interface of observers: what records, shows or measures a run without changing it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ctrdist.batch import Output
from ctrdist.metrics.histogram import ScoreHistogram
from ctrdist.training.loop.state import Progress
from ctrdist.training.observe.messages import Evaluation, Start

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ctrdist.tracking import RunTracker
    from ctrdist.training.build import Engine

_AGREEMENT = timedelta(seconds=60)
"""Time within which an observer must have failed on all ranks for the run to continue."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """A finished step."""

    progress: Progress
    epoch: int
    """Number of the epoch, from 0."""
    steps_left: int
    """Steps left in this epoch."""
    loss: float
    """Mean over the step's rows on all workers."""
    grad_norm: float
    """Before clipping; −1 where clipping is off."""
    learning_rates: dict[str, float]
    rows: int
    """Rows of the step on all workers."""
    seconds: float
    """Duration of the step."""


class Observer:
    """Does nothing; override what you need."""

    on_all_ranks = False
    """True: it is called on every rank, at the same points, and may use collectives.
    False: it is called on rank 0 alone."""

    def on_start(self, engine: Engine, event: Start) -> None:
        """Called before the first step."""

    def on_lookup(self, emb: Mapping[str, Tensor]) -> None:
        """Called with the embeddings of a training step's batch, before the tower sees them."""

    def on_output(self, output: Output, label_B: Tensor) -> None:
        """Called with the model's output for rows of training or evaluation, and their labels."""

    def on_gradients(self) -> None:
        """Called in a step once the dense gradients are those of the loss alone, on all ranks."""

    def on_step(self, event: Stepped) -> None:
        """Called after each step."""

    def on_epoch_end(self, progress: Progress, epoch: int) -> None:
        """Called after the last step of an epoch, or of the run, before the evaluation."""

    def on_evaluate(self, event: Evaluation, step: int, histogram: ScoreHistogram | None) -> None:
        """Called after a split was evaluated; rank 0 has the histogram of its scores."""

    def on_checkpoint(self, progress: Progress) -> None:
        """Called once a checkpoint is complete, with the progress that it holds."""

    def on_end(self, summary: dict[str, Any]) -> None:
        """Called after the test split was evaluated; may add to the summary."""

    def on_failure(self, error: BaseException) -> None:
        """Called when the run breaks off."""


class Observers:
    """The observers of a run on this rank. One that fails costs a warning, not the run."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        """Keeps the observers that are called on this rank, in order; every rank calls it."""
        self._observers = [o for o in observers if dist.get_rank() == 0 or o.on_all_ranks]
        self._warned: set[tuple[type, type]] = set()
        self._group: dist.ProcessGroup | None = None
        if dist.get_world_size() > 1 and any(o.on_all_ranks for o in observers):
            self._group = dist.new_group(backend="gloo", timeout=_AGREEMENT)

    def tell(self, hook: Callable[[Observer], None]) -> None:
        """Calls a hook of each observer.

        Raises:
            Exception: the error of an observer that uses collectives, if it has not failed on all
                ranks: the others wait for this rank within one.
        """
        for observer in self._observers:
            try:
                hook(observer)
            except Exception as error:
                if observer.on_all_ranks and not self._all_ranks_failed():
                    raise
                if (type(observer), type(error)) not in self._warned:
                    self._warned.add((type(observer), type(error)))
                    _warn(type(observer).__name__, error)

    def _all_ranks_failed(self) -> bool:
        try:
            if self._group is not None:
                dist.all_reduce(torch.zeros(1), group=self._group)
        except RuntimeError:  # a rank has not come within the time-out
            return False
        return True


@contextmanager
def tolerated(what: str) -> Iterator[None]:
    """Turns the failure of something that only shows or records into one warning."""
    try:
        yield
    except Exception as error:
        _warn(what, error)


def draw(tracker: RunTracker, name: str, make: Callable[..., Figure], *arguments: Any) -> None:
    """Records the figure that a function makes of the arguments; a failure costs a warning."""
    with tolerated(f"figure {name}"):
        tracker.log_figure(name, make(*arguments))


def _warn(what: str, error: Exception) -> None:
    _log.warning("%s failed (%s: %s); the run continues", what, type(error).__name__, error)
    _log.debug("where it failed", exc_info=error)
