"""The driver's side of a run: passes messages on, and adds what only the driver can know."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ctrdist.config.experiment import Experiment
from ctrdist.training.faults.memory import out_of_memory_text

Show = Callable[[dict[str, Any]], None]
_POLL_SECONDS = 0.3
_LOOK_SECONDS = 5.0
_PATIENCE_SECONDS = 60.0


class Journal:
    """What the workers of a run have told."""

    def __init__(self, channel: Any, experiment: Experiment, show: Show) -> None:
        """Begins with nothing.

        Args:
            channel: the actor that workers and controller push messages to.
            experiment: of the run.
            show: receives each message.
        """
        self.last: dict[str, dict[str, Any]] = {}
        """Kind → the newest message of that kind, since workers were last started."""
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
            kind = message["kind"]
            self.last[kind] = message
            self.show(message)
            if kind == "worker":
                self._nodes[message["rank"]] = message["node"]
            elif kind == "start":
                self.training, self.saved_step = True, message["resumed_step"]
            elif kind == "checkpoint":
                self.saved_step = message["step"]
            elif kind == "failure":
                self._on_failure(message)

    def _on_failure(self, message: dict[str, Any]) -> None:
        if message["out_of_memory"]:
            held = self.last.get("start", {}).get("bytes_per_rank", [])
            rank, workers = message["rank"], max(len(held), 1)
            message["reason"] = out_of_memory_text(
                rank,
                message["reason"],
                held[rank] if rank < len(held) else None,
                -(-self._experiment.loader.batch_size // workers),
            )
        elif "hang" in self.last and not message["told_to_stop"]:
            hang = self.last["hang"]
            message["reason"] = f"hung for {hang['seconds']:g} s; stacks in {hang['stacks']}"
        self.training = False
        self._waiting_since = time.monotonic()
        self._nodes.clear()
        if message["final"]:
            return
        self.show({**message, "kind": "restart", "step": self.saved_step})
        for kind in ("hang", "crash", "stopped"):
            self.last.pop(kind, None)

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
            self.show({"kind": "waiting", "wanted": wanted, "unit": unit, "there": there})
