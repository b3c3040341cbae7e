"""The process group of a run's workers, and sums and gathers over them."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ctrdist.distributed.communication_timer import stop_timing
from ctrdist.errors import ConfigError, UserError

T = TypeVar("T")
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all workers of the run."""

    rank: int
    """0 … size − 1."""
    size: int
    """Workers of the run."""
    local_size: int
    """Workers on this machine."""
    device: torch.device
    """Device that this worker computes on."""

    @property
    def is_main(self) -> bool:
        """True on rank 0, which writes what is written once."""
        return self.rank == 0


def join_world(device: torch.device | None = None, timeout_s: float = 1800.0) -> World:
    """Joins the process group that torchrun's variables describe, unless that has been done.

    Without these variables it makes a group of one process, as TorchRec needs one. Workers that are
    all on one machine listen on its loopback interface alone.

    Args:
        device: where to compute; by default this worker's GPU, or the CPU if there is none.
        timeout_s: a collective fails after so many seconds without an answer from another worker.
    """
    if device is None:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        device = (
            torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    size = os.environ.get("WORLD_SIZE", "1")
    one_machine = "RANK" not in os.environ or os.environ.get("LOCAL_WORLD_SIZE") == size
    os.environ.setdefault("LOCAL_WORLD_SIZE", size)  # TorchRec assumes 8
    if one_machine:
        for backend in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo")
    if not dist.is_initialized():
        timeout = timedelta(seconds=timeout_s)
        # torchrun's agent already serves a store, on an address of its choice
        own_store = one_machine and "TORCHELASTIC_RUN_ID" not in os.environ
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=_loopback_store(int(size), timeout) if own_store else None,
            rank=int(os.environ.get("RANK", "0")),
            world_size=int(size),
            timeout=timeout,
        )
    return World(
        rank=dist.get_rank(),
        size=dist.get_world_size(),
        local_size=int(os.environ["LOCAL_WORLD_SIZE"]),
        device=device,
    )


def _loopback_store(size: int, timeout: timedelta) -> dist.Store:
    """The store of workers on one machine: rank 0 serves it on the loopback interface."""
    if "RANK" not in os.environ:
        return dist.HashStore()
    port, is_main = int(os.environ["MASTER_PORT"]), os.environ["RANK"] == "0"
    listening = socket.create_server((_LOOPBACK, port)).detach() if is_main else None
    return dist.TCPStore(
        _LOOPBACK, port, size, is_main, timeout=timeout, master_listen_fd=listening
    )


def leave_world() -> None:
    """Leaves the process group, if there is one."""
    use_collectives(None)
    stop_timing()
    if dist.is_initialized():
        dist.destroy_process_group()


def run_on_main(function: Callable[[], T]) -> T:
    """Runs a function on rank 0 and gives every rank its result, or its error.

    Without this an error on rank 0 leaves the others waiting in a collective until the time-out.

    Raises:
        BaseException: what the function has raised, on rank 0. On the other ranks a UserError of
            the same class and text, a SystemExit of the same code, a KeyboardInterrupt, an OSError
            with the text of any OSError, or a RuntimeError with that of any other error.
    """
    box: list[Any] = [None]
    error: BaseException | None = None
    if dist.get_rank() == 0:
        try:
            box = [(function(), None)]
        except BaseException as caught:  # the other ranks must learn of any error
            error = caught
            box = [(None, _error_elsewhere(caught))]
    dist.broadcast_object_list(box, src=0)
    value, raised = box[0]
    if error is not None:
        raise error
    if raised is not None:
        raise raised
    return value


def _error_elsewhere(error: BaseException) -> BaseException:
    """The error to raise on the other ranks; others than these may not survive pickling."""
    if isinstance(error, UserError):
        return type(error)(str(error))
    if isinstance(error, SystemExit):
        return SystemExit(error.code)
    if isinstance(error, KeyboardInterrupt):
        return KeyboardInterrupt()
    return (OSError if isinstance(error, OSError) else RuntimeError)(str(error))


class Collectives(Protocol):
    """Sums and gathers over all ranks that are faster than the process group's."""

    def sum_(self, values: Tensor) -> Tensor:
        """Element-wise sum, in place."""
        ...

    def gather(self, values_N: Tensor) -> Tensor:
        """(W, N): the vectors of all W ranks."""
        ...


_fast: Collectives | None = None


def use_collectives(fast: Collectives | None) -> None:
    """Sets the collectives for CPU tensors; None: the process group's. All ranks call it."""
    global _fast
    _fast = fast


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sums a contiguous tensor of any device over all ranks, element by element and in place."""
    if dist.get_world_size() == 1:
        return values
    if _fast is not None and values.device.type == "cpu":
        return _fast.sum_(values)
    dist.all_reduce(values)
    return values


def gather_over_ranks(values_N: Tensor) -> Tensor:
    """(W, N): the vectors of all W ranks, on all ranks."""
    if _fast is not None and values_N.device.type == "cpu":
        return _fast.gather(values_N)
    parts = [torch.empty_like(values_N) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values_N)
    return torch.stack(parts)


def gather_rows(values_N: Tensor) -> Tensor | None:
    """Joins all ranks' one-dimensional tensors in rank order, on rank 0; None on the other ranks.

    The tensors may differ in length but not in dtype.
    """
    size = dist.get_world_size()
    if size == 1:
        return values_N
    counts = torch.zeros(size, dtype=torch.int64, device=values_N.device)
    counts[dist.get_rank()] = values_N.numel()
    dist.all_reduce(counts)
    longest = int(counts.max())
    padded = values_N.new_zeros(longest)
    padded[: values_N.numel()] = values_N
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    if dist.get_rank() != 0:
        return None
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def require_rows_for_all(rows: int, world: World, split: str) -> None:
    """Refuses a split with fewer rows than workers, which leaves a worker without a batch.

    Raises:
        ConfigError: there are too few rows.
    """
    if rows < world.size:
        raise ConfigError(
            f"split '{split}' has {rows} rows for {world.size} workers; each needs at least one. "
            f"Use --workers {max(rows, 1)} or fewer, or a data set with more rows."
        )
