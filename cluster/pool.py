"""Trains many runs side by side, each in one process of its own: for comparisons."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.run_mailbox import Channel
from cluster.session import connect
from ctrdist.config.experiment import Experiment
from ctrdist.config.parse import to_dict
from ctrdist.errors import ConfigError
from ctrdist.training.observe.messages import Emit, Message, OfRun, RunFailed

_POLL_SECONDS = 0.5
_RETRIES = 3
"""How often a run whose process died is begun again, from its newest checkpoint."""

Done = Callable[[str, dict[str, Any]], None]
"""Takes a run's name and its results."""


def train_side_by_side(
    runs: Sequence[Experiment],
    *,
    cores: int,
    parallel: int,
    show: Emit,
    done: Done,
) -> dict[str, str]:
    """Trains each run on one worker: as many at a time as the cluster has cores, or GPUs, for.

    Args:
        runs: complete, each of one worker; their paths are seen by all nodes.
        cores: of each run.
        parallel: most runs at a time; 0: no bound but the cluster's.
        show: called with each run's messages, as :class:`OfRun`.
        done: called with each run's results once it has ended.

    Returns:
        Name → what went wrong, of the runs that failed; the others are not held up by them.

    Raises:
        ConfigError: no machine of the cluster has so many cores.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    connect()
    _check_cores(cores)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    channel = ray.remote(num_cpus=0, scheduling_strategy=here)(Channel).remote()
    gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
    # a process for each run: settings of PyTorch and memory are not handed on to the next
    train = ray.remote(num_cpus=cores, num_gpus=gpus, max_calls=1, max_retries=_RETRIES)(_train)
    waiting, failed = list(runs), dict[str, str]()
    running: dict[Any, str] = {}
    most = parallel or len(runs)
    while waiting or running:
        while waiting and len(running) < most:
            experiment = waiting.pop(0)
            reference = train.remote(to_dict(experiment), channel, cores)
            running[reference] = experiment.run_name
        ended, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
        for message in ray.get(channel.drain.remote()):
            show(message)
        for reference in ended:
            name = running.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayError as error:
                result = {"error": " ".join(str(error).split())[-400:]}
            if "error" in result:
                failed[name] = result["error"]
                show(OfRun(run=name, message=RunFailed(text=result["error"])))
            else:
                done(name, result)
    ray.kill(channel)
    return failed


def _check_cores(cores: int) -> None:
    import ray

    most = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    if not 1 <= cores <= most:
        raise ConfigError(f"--cores {cores}: from 1 to {most}, the cores of the largest machine.")


def _train(values: Mapping[str, Any], channel: Any, threads: int) -> dict[str, Any]:
    """One run, in a process of its own. Errors are returned: Ray would begin the run again."""
    from ctrdist.config.experiment import experiment_of
    from ctrdist.config.parse import from_dict
    from ctrdist.distributed.process_group import join_world, leave_world
    from ctrdist.errors import UserError
    from ctrdist.log import setup
    from ctrdist.models.registry import config_class

    setup(0)
    from ctrdist.training.run import train

    name = values["model_name"]
    experiment = from_dict(experiment_of(name, config_class(name)), dict(values), "experiment")

    def emit(message: Message) -> None:
        channel.push.remote(OfRun(run=experiment.run_name, message=message))

    try:
        summary = train(experiment, join_world(), emit, threads=threads)
    except UserError as error:
        return {"error": str(error)}
    except Exception:  # whatever it is, the other runs go on
        return {"error": traceback.format_exc()}
    leave_world()
    return summary
