"""The driver's side of a run: passes messages on, and adds what only the driver can know."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any, TypeVar

from ctrdist.config.experiment import Experiment
from ctrdist.training.faults.memory import out_of_memory_text
from ctrdist.training.observe import messages

M = TypeVar("M", bound=messages.Message)
_POLL_SECONDS = 0.3
_LOOK_SECONDS = 5.0
_PATIENCE_SECONDS = 60.0


class Journal:
    """What the workers of a run have told."""

    def __init__(self, channel: Any, experiment: Experiment, show: messages.Emit) -> None:
        """Begins with nothing.

        Args:
            channel: the actor that workers and controller push messages to.
            experiment: of the run.
            show: receives each message.
        """
        self._last: dict[type[messages.Message], messages.Message] = {}
        """Newest message of each kind since the workers were last started."""
        self.training = False
        """Whether the workers have begun to train."""
        self.saved_step = 0
        """Step of the newest whole checkpoint."""
        self.show, self._channel, self._experiment = show, channel, experiment
        self._nodes: dict[int, str] = {}
        self._looked = self._waiting_since = time.monotonic()

    def follow(self, ended: threading.Event) -> None:
        """Passes messages on until Ray Train has ended."""
        while not ended.wait(_POLL_SECONDS):
            self._fetch()
            if time.monotonic() - self._looked > _LOOK_SECONDS:
                self._looked = time.monotonic()
                self._look_at_the_cluster()
        self._fetch()

    def _fetch(self) -> None:
        import ray

        for message in ray.get(self._channel.drain.remote()):
            self._take(message)

    def _take(self, message: messages.Message) -> None:
        self._last[type(message)] = message
        self.show(message)
        match message:
            case messages.Worker():
                self._nodes[message.rank] = message.node
            case messages.Start():
                self.training, self.saved_step = True, message.resumed_step
            case messages.Checkpoint():
                self.saved_step = message.step
            case messages.Failure():
                self._on_failure(message)

    def last(self, kind: type[M]) -> M | None:
        """The newest message of a kind since the workers were last started."""
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
        self._waiting_since = time.monotonic()
        self._nodes.clear()
        if failure.final:
            return
        self.show(messages.Restart(failure=failure, step=self.saved_step))
        for kind in (messages.Hang, messages.Crash, messages.Stopped):
            self._last.pop(kind, None)

    def _look_at_the_cluster(self) -> None:
        """Tells workers on nodes that are about to be taken away, and a person who waits."""
        import ray
        from ray._private.state import state  # Ray has no public name for it

        if self.training:
            leaving = set(state.get_draining_nodes() or {}) & set(self._nodes.values())
            if leaving:
                why = f"node {min(leaving)[:12]} is being taken away"
                self._channel.ask_to_stop.remote(why)
            return
        resources = ray.cluster_resources()
        unit = "GPU" if resources.get("GPU") else "CPU"
        wanted = self._experiment.min_workers or self._experiment.workers
        if (
            resources.get(unit, 0) < wanted
            and time.monotonic() - self._waiting_since > _PATIENCE_SECONDS
        ):
            self._waiting_since = time.monotonic()
            there = int(resources.get(unit, 0))
            self.show(messages.Waiting(wanted=wanted, unit=unit, there=there))
