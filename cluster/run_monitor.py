"""The driver's view of a run: passes messages on and adds what only the driver knows."""

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
_CLUSTER_CHECK_SECONDS = 5.0
_PATIENCE_SECONDS = 60.0
"""Time without enough nodes after which the user is told."""


class RunMonitor:
    """Follows the messages that workers and controller push to a mailbox; `show` receives each."""

    def __init__(self, mailbox: Any, experiment: Experiment, show: messages.Emit) -> None:
        self._last: dict[type[messages.Message], messages.Message] = {}
        self.training = False
        """True once the workers have begun to train."""
        self.saved_step = 0
        """Step of the newest whole checkpoint."""
        self.show, self._mailbox, self._experiment = show, mailbox, experiment
        self._nodes: dict[int, str] = {}
        self._checked = self._waiting_since = time.monotonic()

    def follow(self, ended: threading.Event) -> None:
        """Passes messages on until Ray Train has ended."""
        while not ended.wait(_POLL_SECONDS):
            self._fetch()
            if time.monotonic() - self._checked > _CLUSTER_CHECK_SECONDS:
                self._checked = time.monotonic()
                self._check_cluster()
        self._fetch()

    def _fetch(self) -> None:
        import ray

        for message in ray.get(self._mailbox.drain.remote()):
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
        self._waiting_since = time.monotonic()
        self._nodes.clear()
        if failure.final:
            return
        self.show(messages.Restart(failure=failure, step=self.saved_step))
        for kind in (messages.Hang, messages.Crash, messages.Stopped):
            self._last.pop(kind, None)

    def _check_cluster(self) -> None:
        """Stops workers whose node is about to leave, and reports a lack of nodes."""
        import ray

        from cluster.ray_internals import draining_nodes

        if self.training:
            leaving = draining_nodes() & set(self._nodes.values())
            if leaving:
                why = f"node {min(leaving)[:12]} is being taken away"
                self._mailbox.ask_to_stop.remote(why)
            return
        resources = ray.cluster_resources()
        unit = "GPU" if resources.get("GPU") else "CPU"
        wanted = self._experiment.min_workers or self._experiment.workers
        found = int(resources.get(unit, 0))
        if found < wanted and time.monotonic() - self._waiting_since > _PATIENCE_SECONDS:
            self._waiting_since = time.monotonic()
            self.show(messages.Waiting(wanted=wanted, unit=unit, there=found))
