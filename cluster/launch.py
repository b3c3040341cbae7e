"""Starts the workers of a run, with Ray Train or in a process of its own, and waits for them."""

import os
import signal
from typing import Any

from cluster.run_monitor import RunMonitor
from cluster.worker_task import WorkerTask
from ctrdist import errors
from ctrdist.config.experiment import Experiment
from ctrdist.errors import ResourceError
from ctrdist.training.observe import messages


def launch(
    task: str, experiment: Experiment, arguments: dict[str, Any], show: messages.Emit
) -> dict[str, Any]:
    """Runs a task on `experiment.workers` workers and returns its results.

    One worker on this machine runs in a process of its own; more of them, or those of a cluster,
    are started by Ray Train. On SIGTERM or Ctrl-C, training writes a checkpoint before it ends. A
    second signal ends it at once.

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
    restarts = experiment.faults.max_restarts if task == "train" else 0
    worker_task = WorkerTask.of(task, experiment, arguments)
    monitor = RunMonitor(experiment, show)
    workers: Any
    if experiment.workers == 1 and not os.environ.get("RAY_ADDRESS"):
        from cluster.local_worker import LocalWorker

        workers = LocalWorker(worker_task, restarts)
    else:
        from cluster.ray_workers import RayWorkers

        workers = RayWorkers(worker_task, experiment, restarts)
    with workers:
        try:
            monitor.follow(workers)
        except (KeyboardInterrupt, SystemExit):
            if task != "train" or not monitor.training:
                raise
            show(messages.Stopping())
            workers.ask_to_stop()
            monitor.follow(workers)
            stopped = monitor.last(messages.Stopped)
            if stopped is not None:
                show(messages.Interrupted(step=stopped.step))
                raise
    return _result(workers.error, monitor, restarts)


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
    crash = monitor.crashes.get(failure.rank)
    if crash is not None:
        raise RuntimeError(f"worker {failure.rank} failed:\n{crash.traceback}")
    step = monitor.saved_step
    resume = f" under the same name to resume from step {step:,}" if step else ""
    spent = 0 <= max_restarts < failure.restarts
    why = f"faults.max_restarts is {max_restarts}" if spent else "the same error would come again"
    raise ResourceError(
        f"worker {failure.rank} died: {failure.reason}. It is not started again, because {why}. "
        f"Start the job again{resume}."
    )
