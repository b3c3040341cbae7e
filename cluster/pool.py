"""Trains many runs side by side, each in a process of its own."""

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.run_mailbox import start_mailbox
from cluster.session import connect
from ctrdist.config.experiment import Experiment
from ctrdist.config.parse import to_dict
from ctrdist.errors import ConfigError, UserError
from ctrdist.models.registry import read_experiment
from ctrdist.tracking import end_killed
from ctrdist.training.observe.messages import Emit, Logged, Message, OfRun, RunFailed

_POLL_SECONDS = 0.5
_CANCEL_SECONDS = 10.0
_RETRIES = 3
"""Number of times that a run whose process died is started again, from its newest checkpoint."""


def train_side_by_side(
    runs: Sequence[Experiment],
    *,
    cores: int,
    parallel: int,
    show: Emit,
    done: Callable[[str, dict[str, Any]], None],
) -> dict[str, str]:
    """Trains each run on one worker, as many at a time as the cluster has cores or GPUs for.

    An interrupted run is recorded as killed; the next call resumes it from its newest checkpoint.

    Args:
        runs: complete, each of one worker; all nodes can read their paths.
        cores: of each run.
        parallel: most runs at a time; 0: limited by the cluster only.
        show: receives each run's messages, as :class:`OfRun`.
        done: receives the name and the results of each run that has ended.

    Returns:
        Name → error of each run that failed. The other runs are trained all the same.

    Raises:
        ConfigError: no machine of the cluster has so many cores.
    """
    import ray

    connect()
    most = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    if not 1 <= cores <= most:
        raise ConfigError(f"--cores {cores}: from 1 to {most}, the cores of the largest machine.")
    mailbox = start_mailbox()
    gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
    # max_calls: each run gets a new process, without the PyTorch settings of the one before
    remote: Any = ray.remote(num_cpus=cores, num_gpus=gpus, max_calls=1, max_retries=_RETRIES)
    train = remote(_train)
    waiting, failed = list(runs), dict[str, str]()
    running: dict[Any, Experiment] = {}
    try:
        while waiting or running:
            while waiting and len(running) < (parallel or len(runs)):
                experiment = waiting.pop(0)
                running[train.remote(to_dict(experiment), mailbox, cores, sys.argv)] = experiment
            ended, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
            for message in ray.get(mailbox.drain.remote()):
                show(message)
            for reference in ended:
                name = running.pop(reference).run_name
                result = _result_of(reference)
                if "error" in result:
                    failed[name] = result["error"]
                    show(OfRun(run=name, message=RunFailed(text=result["error"])))
                else:
                    done(name, result)
    except (KeyboardInterrupt, SystemExit):
        _cancel(running)
        raise
    ray.kill(mailbox)
    return failed


def _cancel(running: Mapping[Any, Experiment]) -> None:
    """Ends the processes of runs, and records the runs as killed."""
    import ray

    for reference in running:
        ray.cancel(reference, force=True)
    ray.wait(list(running), num_returns=len(running), timeout=_CANCEL_SECONDS)
    for experiment in running.values():
        end_killed(f"{experiment.runs}/{experiment.run_name}", "interrupted")


def _result_of(reference: Any) -> dict[str, Any]:
    """Returns the results of a run that has ended, or its error where its process failed."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return {"error": " ".join(str(error).split())[-400:]}


def _train(
    values: Mapping[str, Any], mailbox: Any, threads: int, command: list[str]
) -> dict[str, Any]:
    """Trains one run. Returns errors, because Ray would start the run again if they were raised."""
    from ctrdist.distributed.process_group import join_world, leave_world
    from ctrdist.log import forward, setup

    def emit(message: Message) -> None:
        mailbox.push.remote(OfRun(run=values["run_name"], message=message))

    sys.argv = command
    setup(0)
    forward(0, lambda line: emit(Logged(text=line)))
    from ctrdist.training.run import train

    experiment = read_experiment(values, "experiment")

    try:
        summary = train(experiment, join_world(), emit, threads=threads)
    except UserError as error:
        return {"error": str(error)}
    except Exception:  # any error at all: the other runs are to be trained
        return {"error": traceback.format_exc()}
    leave_world()
    return summary
