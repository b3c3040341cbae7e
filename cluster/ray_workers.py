"""Workers that Ray Train starts, on one machine or on the nodes of a cluster."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from typing import Any

from cluster.run_mailbox import END_RUN, start_mailbox
from cluster.run_monitor import RunMonitor
from cluster.session import connect, is_own
from cluster.worker_task import WorkerTask
from ctrdist.config.experiment import Experiment
from ctrdist.errors import ConfigError, ResourceError
from ctrdist.training.faults.memory import ADVICE
from ctrdist.training.observe import messages

_CLUSTER_CHECK_SECONDS = 5.0
_PATIENCE_SECONDS = 60.0
"""Time without enough nodes after which the user is told."""


class RayWorkers(threading.Thread):
    """Runs Ray Train in a thread; in the main thread it would handle Ctrl-C itself.

    Use as a context. `error` is what Ray Train has raised.

    Raises:
        ConfigError: the cluster is too small.
    """

    def __init__(self, task: WorkerTask, experiment: Experiment, max_restarts: int) -> None:
        super().__init__(name="ray-train", daemon=True)
        import ray

        # how soon a worker's error is noticed; Ray's own interval is two seconds
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        # check() finds the nodes that are about to leave; Ray Train's own way is an actor more
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        connect(max(len(os.sched_getaffinity(0)), experiment.workers))
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from cluster.ray_train_internals import Trainer
        from cluster.restart_policy import CheckpointBeforeResize, RestartPolicy
        from cluster.worker import ProcessGroupConfig, work

        self.error: BaseException | None = None
        # not is_alive(): after a signal has interrupted join(), Python 3.11 calls a thread dead
        self.ended = threading.Event()
        self._workers = experiment.workers
        self._least = experiment.min_workers or experiment.workers
        self._checked = time.monotonic()
        use_gpu = _workers_use_gpus(ray.cluster_resources(), experiment)
        self._mailbox = start_mailbox()
        self._storage = tempfile.TemporaryDirectory(prefix="ctrdist-")
        # Ray Train takes more than its annotations say: a range of workers, and controller hooks
        number: Any = (self._least, self._workers)
        if self._least == self._workers:
            number = self._workers
        callbacks: list[Any] = [
            RestartPolicy(self._mailbox, max_restarts),
            CheckpointBeforeResize(self._mailbox),
        ]
        self._trainer = Trainer(
            work,
            own_ray=is_own(),
            train_loop_config={"task": task, "mailbox": self._mailbox},
            torch_config=ProcessGroupConfig(),
            scaling_config=ScalingConfig(num_workers=number, use_gpu=use_gpu),
            run_config=RunConfig(
                name=f"{task.kind}-{int(time.time())}",
                storage_path=self._storage.name,
                failure_config=FailureConfig(max_failures=-1),  # RestartPolicy counts
                callbacks=callbacks,
            ),
        )

    def __enter__(self) -> RayWorkers:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        self._storage.cleanup()
        if error[0] is None:
            ray.kill(self._mailbox)

    def run(self) -> None:
        """Keeps the error for the main thread."""
        try:
            self._trainer.fit()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()

    def ask_to_stop(self) -> None:
        """Makes the workers write a checkpoint and end."""
        import ray

        ray.get(self._mailbox.ask_to_stop.remote(END_RUN))

    def drain(self) -> list[messages.Message]:
        """Returns the messages since the last call."""
        import ray

        try:
            return ray.get(self._mailbox.drain.remote())
        except ray.exceptions.OutOfMemoryError as error:
            said = " ".join(str(error).split())[:300]
            raise ResourceError(f"Ray killed the run's mailbox: {said} … {ADVICE}") from None

    def check(self, monitor: RunMonitor) -> None:
        """Stops workers whose node is about to leave, and reports a lack of nodes."""
        import ray

        from cluster.ray_internals import draining_nodes

        if time.monotonic() - self._checked < _CLUSTER_CHECK_SECONDS:
            return
        self._checked = time.monotonic()
        if monitor.training:
            leaving = draining_nodes() & set(monitor.nodes.values())
            if leaving:
                why = f"node {min(leaving)[:12]} is being taken away"
                self._mailbox.ask_to_stop.remote(why)
            return
        resources = ray.cluster_resources()
        unit = "GPU" if resources.get("GPU") else "CPU"
        found = int(resources.get(unit, 0))
        if found < self._least and time.monotonic() - monitor.waiting_since > _PATIENCE_SECONDS:
            monitor.waiting_since = time.monotonic()
            monitor.show(messages.Waiting(wanted=self._least, unit=unit, there=found))


def _workers_use_gpus(resources: dict[str, float], experiment: Experiment) -> bool:
    """Returns True if each worker gets a GPU.

    Raises:
        ConfigError: the cluster has too few GPUs or CPUs.
    """
    least = experiment.min_workers or experiment.workers
    option = "--min-workers" if experiment.min_workers else "--workers"
    unit = "GPU" if resources.get("GPU") else "CPU"
    found = int(resources.get(unit, 0))
    if found < least:
        raise ConfigError(
            f"{option} {least}: this Ray cluster has {found} {unit}s, and a worker uses one. "
            f"Use {option} {found} or fewer, or add nodes."
        )
    return unit == "GPU"
