"""Starts the workers of a run with Ray Train, and waits for the results."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from typing import Any

from cluster.run_mailbox import END_RUN, start_mailbox
from cluster.run_monitor import RunMonitor
from cluster.session import connect
from ctrdist import errors
from ctrdist.config.experiment import Experiment
from ctrdist.config.parse import to_dict
from ctrdist.errors import ConfigError, ResourceError
from ctrdist.training.faults.memory import ADVICE
from ctrdist.training.observe import messages


def launch(
    task: str, experiment: Experiment, arguments: dict[str, Any], show: messages.Emit
) -> dict[str, Any]:
    """Runs a task on `experiment.workers` workers and returns its results.

    On SIGTERM or Ctrl-C, training writes a checkpoint before it ends. A second signal ends it at
    once.

    Args:
        task: "train" or "evaluate".
        experiment: complete; all workers can read its paths.
        arguments: further arguments of the task.
        show: receives each message of the run.

    Raises:
        UserError: a worker refused the settings or the data.
        ConfigError: the cluster is too small.
        ResourceError: workers failed more often than faults.max_restarts allows.
    """
    import ray

    # how soon a worker's error is noticed; Ray's own interval is two seconds
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    cores = len(os.sched_getaffinity(0))
    connect(max(cores, experiment.workers))
    use_gpu = _workers_use_gpus(ray.cluster_resources(), experiment)
    mailbox = start_mailbox()
    monitor = RunMonitor(mailbox, experiment, show)
    with tempfile.TemporaryDirectory(prefix="ctrdist-") as storage:
        workers = _RayTrain(task, experiment, arguments, mailbox, use_gpu, storage)
        workers.start()
        try:
            monitor.follow(workers.ended)
        except ray.exceptions.OutOfMemoryError as error:
            said = " ".join(str(error).split())[:300]
            raise ResourceError(f"Ray killed the run's mailbox: {said} … {ADVICE}") from None
        except (KeyboardInterrupt, SystemExit):
            if task != "train" or not monitor.training:
                raise
            show(messages.Stopping())
            ray.get(mailbox.ask_to_stop.remote(END_RUN))
            monitor.follow(workers.ended)
            stopped = monitor.last(messages.Stopped)
            if stopped is not None:
                show(messages.Interrupted(step=stopped.step))
                raise
    ray.kill(mailbox)
    return _result(workers.error, monitor, experiment.faults.max_restarts)


def _result(error: BaseException | None, monitor: RunMonitor, max_restarts: int) -> dict[str, Any]:
    """Returns the run's results, or raises the error that explains best why there are none."""
    done = monitor.last(messages.Done)
    if error is None and done is not None:
        return done.summary
    refused = monitor.last(messages.UserFault)
    if refused is not None:
        raise getattr(errors, refused.type)(refused.text) from None
    failure = monitor.last(messages.Failure)
    if failure is None:
        assert error is not None, "Ray Train has ended without a result and without an error"
        raise error
    if failure.told_to_stop:
        stopped = monitor.last(messages.Stopped)
        assert stopped is not None, "workers that were told to stop have reported their step"
        monitor.show(messages.Interrupted(step=stopped.step))
        raise SystemExit(128 + signal.SIGTERM)
    crash = monitor.last(messages.Crash)
    if crash is not None:
        raise RuntimeError(f"worker {failure.rank} failed:\n{crash.traceback}")
    step = monitor.saved_step
    resume = f" under the same name to resume from step {step:,}" if step else ""
    raise ResourceError(
        f"worker {failure.rank} died: {failure.reason}. It is not started again, because "
        f"faults.max_restarts is {max_restarts}. Start the job again{resume}."
    )


class _RayTrain(threading.Thread):
    """Runs Ray Train in a thread; in the main thread it would handle Ctrl-C itself."""

    def __init__(
        self,
        task: str,
        experiment: Experiment,
        arguments: dict[str, Any],
        mailbox: Any,
        use_gpu: bool,
        storage: str,
    ) -> None:
        super().__init__(name="ray-train", daemon=True)
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from cluster.restart_policy import CheckpointBeforeResize, RestartPolicy
        from cluster.worker import ProcessGroupConfig, work

        self.error: BaseException | None = None
        # not is_alive(): after a signal has interrupted join(), Python 3.11 calls a thread dead
        self.ended = threading.Event()
        workers, least = experiment.workers, experiment.min_workers or experiment.workers
        restarts = experiment.faults.max_restarts if task == "train" else 0
        # Ray Train takes more than its annotations say: a range of workers, and controller hooks
        number: Any = workers if least == workers else (least, workers)
        callbacks: list[Any] = [RestartPolicy(mailbox, restarts), CheckpointBeforeResize(mailbox)]
        self._trainer = TorchTrainer(
            work,
            train_loop_config={
                "task": task,
                "experiment": to_dict(experiment),
                "arguments": arguments,
                "mailbox": mailbox,
                # longer than the watchdog, which leaves the stacks of a hung collective
                "timeout_s": max(1800.0, experiment.faults.step_timeout_s * 2),
            },
            torch_config=ProcessGroupConfig(),
            scaling_config=ScalingConfig(num_workers=number, use_gpu=use_gpu),
            run_config=RunConfig(
                name=f"{task}-{int(time.time())}",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=-1),  # RestartPolicy counts
                callbacks=callbacks,
            ),
        )

    def run(self) -> None:
        """Keeps the error for the main thread."""
        try:
            self._trainer.fit()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()


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
