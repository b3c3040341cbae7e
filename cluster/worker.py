"""What each Ray Train worker runs, and how Ray Train sets it up."""

from __future__ import annotations

import signal
import threading
import traceback
from dataclasses import dataclass
from typing import Any

import ray
import ray.train.torch
from ray.train.torch.config import TorchConfig, _TorchBackend

from cluster.run_mailbox import FOR_GOOD
from ctrdist.training.faults.stopping import Interrupted, StopRequest
from ctrdist.training.observe import messages

STOP = StopRequest()
"""Of this process. Ray trains in a thread, and signal handlers are set in the main thread."""
_EMIT_SECONDS = 10.0


class ToldToStop(RuntimeError):
    """This worker has written a checkpoint and ended, so that workers are started again."""


@dataclass
class GroupConfig(TorchConfig):
    """Ray Train's process group of PyTorch, with our signals and our end."""

    @property
    def backend_cls(self) -> type:
        """What sets it up."""
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(_listen)

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Does nothing: workers that have ended well have left the group themselves.

        Ray would wait half a minute for the others, whose collectives wait for a dead one.
        """


def work(config: dict[str, Any]) -> None:
    """Trains or evaluates."""
    from ctrdist.config.experiment import experiment_of
    from ctrdist.config.parse import from_dict
    from ctrdist.distributed.process_group import join_world, leave_world
    from ctrdist.errors import UserError
    from ctrdist.log import setup
    from ctrdist.models.registry import config_class

    channel = config["channel"]
    rank = ray.train.get_context().get_world_rank()

    def emit(message: messages.Message) -> None:
        sent = channel.push.remote(message)
        if not isinstance(message, messages.Step | messages.Checkpoint):  # worth to be waited for
            ray.get(sent, timeout=_EMIT_SECONDS)

    setup(rank)
    from ctrdist.training import run  # after logging is set up: these imports talk

    emit(messages.Worker(rank=rank, node=ray.get_runtime_context().get_node_id()))
    threading.Thread(target=_forward_stop, args=(channel,), name="stop", daemon=True).start()
    world = join_world(ray.train.torch.get_device())
    name = config["experiment"]["model_name"]
    experiment = from_dict(
        experiment_of(name, config_class(name)), config["experiment"], "experiment"
    )
    try:
        if config["task"] == "train":
            run.train(experiment, world, emit, STOP)
        else:
            run.evaluate_checkpoint(experiment, world=world, emit=emit, **config["arguments"])
    except UserError as error:
        emit(messages.UserFault(type=type(error).__name__, text=str(error)))
        raise
    except Interrupted as interrupted:
        reason = ray.get(channel.stop_reason.remote())
        if world.is_main:
            emit(messages.Stopped(step=interrupted.step))
        if reason != FOR_GOOD:  # an error, after which the workers are started again
            raise ToldToStop(reason or "a worker received SIGTERM") from None
    except Exception:
        emit(messages.Crash(rank=rank, traceback=traceback.format_exc()))
        raise
    leave_world()


def _forward_stop(channel: Any) -> None:
    ray.get(channel.wait_for_stop.remote())
    STOP.ask()


def _listen() -> None:
    STOP.listen(signal.SIGTERM)
