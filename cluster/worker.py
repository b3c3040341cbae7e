"""The function that each Ray Train worker runs, and the variables of its process group."""

import os
import signal
import socket
import threading
from typing import Any

import ray
import ray.train.torch
from ray.train.backend import Backend, BackendConfig
from ray.train.torch import TorchConfig

from cluster.run_mailbox import END_RUN
from cluster.worker_task import WorkerTask
from ctrdist.training.faults.stopping import Interrupted, StopRequest
from ctrdist.training.observe import messages

STOP = StopRequest()
"""Stop request of this process. Ray trains in a thread, but only the main thread may set signal
handlers."""
_EMIT_SECONDS = 10.0


class ToldToStop(RuntimeError):
    """This worker has written a checkpoint and ended, so that workers are started again."""


class ProcessGroupConfig(TorchConfig):
    """Ray Train's configuration of PyTorch, but the workers join the process group themselves."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The backend that Ray Train is to use."""
        return _Backend


class _Backend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Called by Ray Train each time it has started workers."""
        worker_group.execute(_set_environment, *worker_group.execute_single(0, _free_address))
        worker_group.execute(_listen)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Does nothing: workers that end without an error leave the group themselves.

        Ray's own backend would wait half a minute for workers whose collectives wait for a dead
        one.
        """


def _free_address() -> tuple[str, int]:
    """Returns the address of this node, and a port of it that is free now."""
    ip = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return ip, probe.getsockname()[1]


def _set_environment(address: str, port: int) -> None:
    """Sets torchrun's variables in this worker, with the address of rank 0."""
    context = ray.train.get_context()
    os.environ.update(
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
        RANK=str(context.get_world_rank()),
        WORLD_SIZE=str(context.get_world_size()),
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()),
    )


def work(config: dict[str, Any]) -> None:
    """Runs the worker's task; Ray Train calls it on each worker."""
    task: WorkerTask = config["task"]
    mailbox = config["mailbox"]
    rank = ray.train.get_context().get_world_rank()

    def emit(message: messages.Message) -> None:
        sent = mailbox.push.remote(message)
        # the others are frequent, and may get lost
        if not isinstance(message, messages.Step | messages.Checkpoint):
            ray.get(sent, timeout=_EMIT_SECONDS)

    emit(messages.Worker(rank=rank, node=ray.get_runtime_context().get_node_id()))
    threading.Thread(target=_forward_stop, args=(mailbox,), name="stop", daemon=True).start()
    try:
        task.run(rank, ray.train.torch.get_device(), emit, STOP)
    except Interrupted:
        reason = ray.get(mailbox.stop_reason.remote())
        if reason != END_RUN:  # an error, after which Ray Train starts the workers again
            raise ToldToStop(reason or "a worker received SIGTERM") from None


def _forward_stop(mailbox: Any) -> None:
    ray.get(mailbox.wait_for_stop.remote())
    STOP.ask()


def _listen() -> None:
    STOP.listen(signal.SIGTERM)
