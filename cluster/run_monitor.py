"""The driver's view of a run: passes messages on and adds what only the driver knows."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Protocol, TypeVar

from ctrdist.config.experiment import Experiment
from ctrdist.training.faults.memory import out_of_memory_text
from ctrdist.training.observe import messages

M = TypeVar("M", bound=messages.Message)
_POLL_SECONDS = 0.3


class Workers(Protocol):
    """The workers of a run, which somebody starts, and starts again after a failure."""

    ended: threading.Event
    """Set once they have ended for good."""

    def drain(self) -> list[messages.Message]:
        """Returns the messages since the last call, those of failures included."""
        ...

    def check(self, monitor: RunMonitor) -> None:
        """Called every fraction of a second, to look after the workers."""
        ...


class RunMonitor:
    """Follows the messages of a run's workers; `show` receives each."""

    def __init__(self, experiment: Experiment, show: messages.Emit) -> None:
        self._last: dict[type[messages.Message], messages.Message] = {}
        self.training = False
        """True once the workers have begun to train."""
        self.saved_step = 0
        """Step of the newest whole checkpoint."""
        self.nodes: dict[int, str] = {}
        """Rank → node of the workers that are there."""
        self.crashes: dict[int, messages.Crash] = {}
        """Rank → its error, since the workers were last started."""
        self.waiting_since = time.monotonic()
        """Time since which the run has had no workers."""
        self.show, self._experiment = show, experiment

    def follow(self, workers: Workers) -> None:
        """Passes messages on until the workers have ended."""
        while not workers.ended.wait(_POLL_SECONDS):
            self._take(workers.drain())
            workers.check(self)
        self._take(workers.drain())

    def _take(self, received: list[messages.Message]) -> None:
        for message in received:
            self._last[type(message)] = message
            self.show(message)
            match message:
                case messages.Worker():
                    self.nodes[message.rank] = message.node
                case messages.Start():
                    self.training, self.saved_step = True, message.resumed_step
                case messages.Checkpoint():
                    self.saved_step = message.step
                case messages.Crash():
                    self.crashes[message.rank] = message
                case messages.Failure():
                    self._on_failure(message)

    def last(self, kind: type[M]) -> M | None:
        """Returns the newest message of a kind since the workers were last started."""
        found = self._last.get(kind)
        return found if isinstance(found, kind) else None

    def _on_failure(self, failure: messages.Failure) -> None:
        hang = self.last(messages.Hang)
        if failure.out_of_memory:
            start = self.last(messages.Start)
            held = [] if start is None else start.bytes_per_rank
            text = out_of_memory_text(
                failure.rank,
                failure.reason,
                held[failure.rank] if failure.rank < len(held) else None,
                -(-self._experiment.loader.batch_size // max(len(held), 1)),
            )
            failure = replace(failure, reason=text)
        elif hang is not None and not failure.told_to_stop:
            text = f"hung for {hang.seconds:g} s; stacks in {hang.stacks}"
            failure = replace(failure, reason=text)
        self._last[messages.Failure] = failure
        self.training = False
        self.waiting_since = time.monotonic()
        self.nodes.clear()
        if failure.final:
            return
        self.show(messages.Restart(failure=failure, step=self.saved_step))
        self.crashes.clear()
        for kind in (messages.Hang, messages.Stopped):
            self._last.pop(kind, None)
