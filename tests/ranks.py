"""Runs a function on several gloo ranks, each a process.

They are forked from a server that has once imported what a run imports, some of it late.
"""

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "ctrdist.training.run",
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
        "pandas",  # by PyArrow
        "torch.distributed.optim",  # by TorchRec
    ]
)


def kill_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120.0
) -> list[int | None]:
    """Like :func:`run_ranks`, for a function that kills a rank: gives the ranks' exit codes.

    A code is negative for a signal. Once one rank is dead, the others are killed too, as a cluster
    does.
    """
    processes, _ = _start(function, world_size, args)
    deadline = time.monotonic() + timeout
    while all(process.is_alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def run_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 240.0
) -> list[Any]:
    """Calls function(world, *args) on each rank and returns the results in rank order.

    Args:
        function: importable by name, for it is pickled.
        world_size: number of ranks.
        args: picklable.
        timeout: seconds after which the ranks are killed.

    Raises:
        RuntimeError: with the traceback of the first rank that failed.
    """
    processes, queue = _start(function, world_size, args)
    results: dict[int, Any] = {}
    try:
        for _ in processes:
            rank, ok, value = queue.get(timeout=timeout)
            if not ok:
                raise RuntimeError(f"rank {rank}:\n{value}")
            results[rank] = value
    finally:
        for process in processes:
            process.join(timeout=20 if len(results) == world_size else 0.1)
            if process.is_alive():
                process.kill()
    return [results[rank] for rank in range(world_size)]


def _start(
    function: Callable[..., Any], world_size: int, args: tuple[Any, ...]
) -> tuple[list[Any], Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = _CONTEXT.Queue()
    processes = [
        _CONTEXT.Process(
            target=_rank, args=(rank, world_size, port, queue, function, args), daemon=True
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes, queue


def _rank(
    rank: int,
    world_size: int,
    port: int,
    queue: Any,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import torch

    from ctrdist.distributed.process_group import join_world, leave_world

    torch.set_num_threads(1)
    try:
        result = function(join_world(torch.device("cpu"), timeout_s=120), *args)
        queue.put((rank, True, result))
        leave_world()
    except BaseException:
        queue.put((rank, False, traceback.format_exc()))
