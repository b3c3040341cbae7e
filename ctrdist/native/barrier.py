"""A barrier between processes of one machine, in memory that all of them have mapped.

It takes microseconds, where one of gloo takes a quarter of a millisecond. Without a C compiler
there is none, and workers use gloo.
"""

# W workers

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrdist.native.build import NativeLibrary

if TYPE_CHECKING:
    from torch import Tensor

CACHE_LINE = 64
"""Bytes of a cache line; each worker's counter has one."""
_LIBRARY = NativeLibrary("barrier")


def has_barrier() -> bool:
    """Tells whether there is one; it needs a C compiler."""
    return _LIBRARY.load() is not None


def arrive(counters: Tensor, worker: int) -> int:
    """Counts a worker's arrival at its next barrier.

    Args:
        counters: (W · CACHE_LINE,) uint8, zero at first, shared by the workers.
        worker: this one.

    Returns:
        The barrier's number.
    """
    return _LIBRARY["arrive"](counters, worker)


def await_all(counters: Tensor, barrier: int, wait_ms: int) -> int | None:
    """Waits until all workers have arrived at a barrier.

    Returns:
        None, or a worker that has not arrived after about `wait_ms`.
    """
    missing = _LIBRARY["await_all"](counters, len(counters) // CACHE_LINE, barrier, wait_ms)
    return None if missing < 0 else missing
