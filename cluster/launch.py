"""Starts the workers of a run with Ray Train, again where they fail, and passes messages on."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from typing import Any

from cluster.run_mailbox import FOR_GOOD, Channel
from cluster.run_monitor import Journal
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

    On SIGTERM or Ctrl-C training first writes a checkpoint; a second one ends it at once.

    Args:
        task: "train" or "evaluate".
        experiment: complete; its paths are seen by all workers.
        arguments: further ones of the task.
        show: called with each message of the run.

    Raises:
        UserError: what a worker refused.
        ConfigError: the cluster is too small.
        ResourceError: workers died more often than the run may start them again.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # how soon a worker's error is noticed; Ray's own interval is two seconds
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    cores = len(os.sched_getaffinity(0))
    connect(max(cores, experiment.workers))
    use_gpu = _check_resources(ray.cluster_resources(), experiment)
    # beside the driver, for any other node may be lost
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    channel = ray.remote(num_cpus=0, scheduling_strategy=here)(Channel).remote()
    journal = Journal(channel, experiment, show)
    with tempfile.TemporaryDirectory(prefix="ctrdist-") as storage:
        fit = _Fit(task, experiment, arguments, channel, use_gpu, storage)
        fit.start()
        try:
            journal.follow(fit.ended)
        except ray.exceptions.OutOfMemoryError as error:  # the channel, the smallest of all
            said = " ".join(str(error).split())[:300]
            raise ResourceError(f"Ray killed what the driver talks to: {said} … {ADVICE}") from None
        except (KeyboardInterrupt, SystemExit):
            if task != "train" or not journal.training:
                raise
            show(messages.Stopping())
            ray.get(channel.ask_to_stop.remote(FOR_GOOD))
            journal.follow(fit.ended)
            stopped = journal.last(messages.Stopped)
            if stopped is not None:
                show(messages.Interrupted(step=stopped.step))
                raise
    ray.kill(channel)
    return _result(fit.error, journal, experiment.faults.max_restarts)


def _result(error: BaseException | None, journal: Journal, max_restarts: int) -> dict[str, Any]:
    """The run's results, or the error that says best why there are none."""
    done = journal.last(messages.Done)
    if error is None and done is not None:
        return done.summary
    refused = journal.last(messages.UserFault)
    if refused is not None:
        raise getattr(errors, refused.type)(refused.text) from None
    failure = journal.last(messages.Failure)
    if failure is None:
        assert error is not None, "Ray Train has ended without a result and without an error"
        raise error
    if failure.told_to_stop:
        stopped = journal.last(messages.Stopped)
        assert stopped is not None, "workers that were told to stop have said where"
        journal.show(messages.Interrupted(step=stopped.step))
        raise SystemExit(128 + signal.SIGTERM)
    crash = journal.last(messages.Crash)
    if crash is not None:
        raise RuntimeError(f"worker {failure.rank} failed:\n{crash.traceback}")
    step = journal.saved_step
    go_on = f" under the same name to go on from step {step:,}" if step else ""
    raise ResourceError(
        f"worker {failure.rank} died: {failure.reason}. It is not started again, as "
        f"faults.max_restarts = {max_restarts}. Start again{go_on}."
    )


class _Fit(threading.Thread):
    """Runs Ray Train; not in the main thread, where it would take Ctrl-C for itself."""

    def __init__(
        self,
        task: str,
        experiment: Experiment,
        arguments: dict[str, Any],
        channel: Any,
        use_gpu: bool,
        storage: str,
    ) -> None:
        super().__init__(name="ray-train", daemon=True)
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from cluster.restart_policy import Failures, Resizing
        from cluster.worker import GroupConfig, work

        self.error: BaseException | None = None
        # not is_alive(): a signal that interrupts join() makes Python 3.11 take it for ended
        self.ended = threading.Event()
        workers, least = experiment.workers, experiment.min_workers or experiment.workers
        restarts = experiment.faults.max_restarts if task == "train" else 0
        self._trainer = TorchTrainer(
            work,
            train_loop_config={
                "task": task,
                "experiment": to_dict(experiment),
                "arguments": arguments,
                "channel": channel,
            },
            # the watchdog is to find a hung collective first: it leaves the stacks
            torch_config=GroupConfig(
                timeout_s=max(1800, int(experiment.faults.step_timeout_s * 2))
            ),
            scaling_config=ScalingConfig(
                num_workers=workers if least == workers else (least, workers), use_gpu=use_gpu
            ),
            run_config=RunConfig(
                name=f"{task}-{int(time.time())}",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=-1),  # Failures counts
                callbacks=[Failures(channel, restarts), Resizing(channel)],
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


def _check_resources(resources: dict[str, float], experiment: Experiment) -> bool:
    """Whether workers get a GPU each."""
    least = experiment.min_workers or experiment.workers
    option = "--min-workers" if experiment.min_workers else "--workers"
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if gpus >= least:
        return True
    if gpus:
        raise ConfigError(
            f"{option} {least}: this Ray cluster has {gpus} GPUs, and a worker uses one. "
            f"Use {option} {gpus} or fewer, or add nodes."
        )
    if cpus < least:
        raise ConfigError(
            f"{option} {least}: this Ray cluster has {cpus} CPUs, and a worker uses one. "
            f"Use {option} {cpus} or fewer, or add nodes."
        )
    return False
