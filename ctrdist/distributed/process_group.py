"""The process group as the library uses it. A single process without a group is a world of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ctrdist.distributed.communication_timer import forget_process_group
from ctrdist.errors import ConfigError, UserError

T = TypeVar("T")


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
    """Where this worker computes."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0


def join_world(device: torch.device | None = None, timeout_s: float = 1800.0) -> World:
    """Joins the process group that the launcher's environment describes, if it is not joined yet.

    The environment holds torchrun's variables. Without them a group of one process is made, as
    TorchRec needs one.

    Args:
        device: where to compute; by default this worker's GPU, or the CPU where there is none.
        timeout_s: after so long without an answer from another worker a collective fails.
    """
    if device is None:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        device = (
            torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    os.environ.setdefault(
        "LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")
    )  # TorchRec assumes 8
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        timeout = timedelta(seconds=timeout_s)
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=timeout)
        else:
            store = dist.HashStore()
            dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    return World(
        rank=dist.get_rank(),
        size=dist.get_world_size(),
        local_size=int(os.environ["LOCAL_WORLD_SIZE"]),
        device=device,
    )


def leave_world() -> None:
    """Leaves the process group, if there is one."""
    use_collectives(None)
    forget_process_group()
    if dist.is_initialized():
        dist.destroy_process_group()


def run_on_main(function: Callable[[], T]) -> T:
    """Runs a function on rank 0 and gives every rank its result, or its error.

    Without this an error on rank 0 leaves the others waiting in a collective until the time-out.

    Raises:
        UserError: of the same kind and text as on rank 0.
        RuntimeError: any other error of rank 0, on the other ranks.
    """
    box: list[Any] = [None]
    error: BaseException | None = None
    if dist.get_rank() == 0:
        try:
            box = [("result", function())]
        except Exception as caught:  # whatever it is, the other ranks must hear of it
            error = caught
            known = isinstance(caught, UserError)
            box = [("error", (type(caught) if known else RuntimeError, str(caught)))]
    dist.broadcast_object_list(box, src=0)
    if error is not None:
        raise error
    kind, value = box[0]
    if kind == "error":
        raise value[0](value[1])
    return value


class Collectives(Protocol):
    """Sums and gathers over all ranks that are quicker than the process group's."""

    def sum_(self, values: Tensor) -> Tensor:
        """Element-wise sum, in place."""
        ...

    def gather(self, values_N: Tensor) -> Tensor:
        """(W, N): the vectors of all W ranks."""
        ...


_quick: Collectives | None = None


def use_collectives(quick: Collectives | None) -> None:
    """From now on CPU tensors go this way; None: through the process group. All ranks call it."""
    global _quick
    _quick = quick


def sum_over_ranks(values: Tensor) -> Tensor:
    """Element-wise sum on all ranks, in place, of a contiguous tensor of any device."""
    if dist.get_world_size() == 1:
        return values
    if _quick is not None and values.device.type == "cpu":
        return _quick.sum_(values)
    dist.all_reduce(values)
    return values


def gather_over_ranks(values_N: Tensor) -> Tensor:
    """(W, N): the vectors of all W ranks, on all ranks."""
    if _quick is not None and values_N.device.type == "cpu":
        return _quick.gather(values_N)
    parts = [torch.empty_like(values_N) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values_N)
    return torch.stack(parts)


def gather_rows(values_N: Tensor) -> Tensor | None:
    """All ranks' one-dimensional tensors, joined in rank order on rank 0; None on the other ranks.

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
    """Refuses a split of fewer rows than workers, which would leave a worker without a batch."""
    if rows < world.size:
        raise ConfigError(
            f"split '{split}' has {rows} rows for {world.size} workers; each needs at least one. "
            f"Use --workers {max(rows, 1)} or fewer, or a data set with more rows."
        )
