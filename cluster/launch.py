"""Starts the workers of a run with Ray Train and passes their messages on."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from cluster.session import connect
from ctrdist import errors
from ctrdist.config.experiment import Experiment
from ctrdist.config.parse import from_dict, to_dict
from ctrdist.errors import ConfigError

Show = Callable[[dict[str, Any]], None]
_POLL_SECONDS = 0.3


class _Channel:
    """Actor that keeps messages until the driver fetches them."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []

    def push(self, message: dict[str, Any]) -> None:
        self._messages.append(message)

    def drain(self) -> list[dict[str, Any]]:
        messages, self._messages = self._messages, []
        return messages


def launch(
    task: str, experiment: Experiment, arguments: dict[str, Any], show: Show
) -> dict[str, Any]:
    """Runs a task on `experiment.workers` workers and returns its results.

    Args:
        task: "train" or "evaluate".
        experiment: complete; its paths are seen by all workers.
        arguments: further ones of the task.
        show: called in a thread with each message of the run.

    Raises:
        UserError: what a worker refused.
        ConfigError: the cluster is too small.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    cores = len(os.sched_getaffinity(0))
    connect(max(cores, experiment.workers))
    use_gpu = _check_resources(ray.cluster_resources(), experiment.workers)
    channel = ray.remote(num_cpus=0)(_Channel).remote()
    outcome: dict[str, Any] = {}
    stop = threading.Event()

    def fetch() -> None:
        for message in ray.get(channel.drain.remote()):
            outcome[message["kind"]] = message
            show(message)

    def follow() -> None:
        while not stop.wait(_POLL_SECONDS):
            fetch()

    thread = threading.Thread(target=follow, name="messages", daemon=True)
    thread.start()
    with tempfile.TemporaryDirectory(prefix="ctrdist-") as storage:
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "task": task,
                "experiment": to_dict(experiment),
                "arguments": arguments,
                "channel": channel,
            },
            scaling_config=ScalingConfig(num_workers=experiment.workers, use_gpu=use_gpu),
            run_config=RunConfig(name=f"{task}-{int(time.time())}", storage_path=storage),
        )
        try:
            trainer.fit()
        except Exception:
            stop.set()
            thread.join()
            fetch()
            if "user_error" in outcome:
                refused = outcome["user_error"]
                raise getattr(errors, refused["type"])(refused["text"]) from None
            raise
    stop.set()
    thread.join()
    fetch()
    ray.kill(channel)
    return outcome["done"]["summary"]


def _work(config: dict[str, Any]) -> None:
    """What each worker runs."""
    import ray
    import ray.train.torch

    from ctrdist.config.experiment import experiment_of
    from ctrdist.distributed import join_world
    from ctrdist.errors import UserError
    from ctrdist.log import setup
    from ctrdist.models.registry import config_class

    channel = config["channel"]

    def emit(message: dict[str, Any]) -> None:
        sent = channel.push.remote(message)
        if message["kind"] in ("done", "user_error"):
            ray.get(sent)

    rank = ray.train.get_context().get_world_rank()
    setup(rank)
    from ctrdist.training import run  # after logging is set up: these imports talk

    world = join_world(ray.train.torch.get_device())
    name = config["experiment"]["model_name"]
    experiment = from_dict(
        experiment_of(name, config_class(name)), config["experiment"], "experiment"
    )
    try:
        if config["task"] == "train":
            run.train(experiment, world, emit)
        else:
            run.evaluate_checkpoint(experiment, world=world, emit=emit, **config["arguments"])
    except UserError as error:
        emit({"kind": "user_error", "type": type(error).__name__, "text": str(error)})
        raise


def _check_resources(resources: dict[str, float], workers: int) -> bool:
    """Whether workers get a GPU each."""
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if gpus >= workers:
        return True
    if gpus:
        raise ConfigError(
            f"--workers {workers}: this Ray cluster has {gpus} GPUs, and a worker uses one. "
            f"Use --workers {gpus} or fewer, or add nodes."
        )
    if cpus < workers:
        raise ConfigError(
            f"--workers {workers}: this Ray cluster has {cpus} CPUs, and a worker uses one. "
            f"Use --workers {cpus} or fewer, or add nodes."
        )
    return False
