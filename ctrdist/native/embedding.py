"""Lookup and fused update of embedding tables on a CPU, for ranges of tables or of their parts.

Each call works on one thread and without the GIL, so that a caller can give every core its own
range. Where there is no C compiler, FBGEMM does this work (ctrdist.sharding.cpu).
"""

# T tables, P parts of tables, B rows of the batch, N lookups, D_all width of all tables together
# W workers, F fields, S rows of the worker that has most

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, NamedTuple

from ctrdist.native.build import NativeLibrary

if TYPE_CHECKING:
    from torch import Tensor

MAX_ROWS = 2**32
"""Rows of a table: ids are sorted as 32-bit numbers."""
SGD, ADAGRAD, ROWWISE_ADAGRAD = 0, 1, 2
_LIBRARY = NativeLibrary("embedding")


class TablePart(ctypes.Structure):
    """A table or a part of one, in embedding.c `Table`."""

    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("column", ctypes.c_int64),
        ("first_row", ctypes.c_int64),
        ("field", ctypes.c_int64),
    )


Parts = ctypes.Array[TablePart]


class Optimizer(NamedTuple):
    """One step of an optimiser of tables."""

    algorithm: int
    """SGD, ADAGRAD or ROWWISE_ADAGRAD."""
    rate: float
    eps: float


def has_embedding() -> bool:
    """Tells whether the functions below work; they need a C compiler."""
    return _LIBRARY.load() is not None


def look_up(
    parts: Parts, first: int, end: int, ids: Tensor, offsets: Tensor, mean: bool, out: Tensor
) -> int | None:
    """Writes pooled rows of tables first … end - 1 into their columns of `out`.

    Args:
        parts: T whole tables.
        first: of the tables to work on.
        end: one after the last.
        ids: (N,) int64, table after table.
        offsets: (T · B + 1,) int64, where each row's ids begin.
        mean: divides by the number of a row's ids.
        out: (B, D_all) float32.

    Returns:
        None, or the position in `ids` of one that is outside its table.
    """
    bad = _LIBRARY["lookup"](parts, first, end, *out.shape, ids, offsets, mean, out)
    return None if bad < 0 else bad


def update(
    parts: Parts,
    first: int,
    end: int,
    ids: Tensor,
    offsets: Tensor,
    mean: bool,
    optimizer: Optimizer,
    grad: Tensor,
) -> None:
    """Makes one optimiser step on the rows of tables first … end - 1 that were looked up.

    The other arguments are those of :func:`look_up`; grad is (B, D_all) float32, contiguous.

    Raises:
        MemoryError: no memory to sort the ids; nothing has changed.
    """
    given = parts, first, end, *grad.shape, ids, offsets, mean
    if _LIBRARY["update"](*given, *optimizer, grad):
        raise MemoryError(f"no memory to sort {len(ids):,} ids of a step")


def publish(given: Tensor, rows: Tensor, ids: Tensor) -> int | None:
    """Copies a worker's ids to where all workers can read them.

    Args:
        given: (F · n,) int32.
        rows: (F,) int64, rows of each field's table.
        ids: (F, S) int32; -1 is written where a worker has no row.

    Returns:
        None, or the position in `given` of an id that is outside its table.
    """
    fields, stride = ids.shape
    bad = _LIBRARY["publish"](given, rows, fields, len(given) // fields, stride, ids)
    return None if bad < 0 else bad


def serve(
    parts: Parts, first: int, end: int, ids: Tensor, pairs: Tensor, counts: Tensor, out: Tensor
) -> None:
    """Writes the rows of parts first … end - 1 that any worker has asked for.

    Args:
        parts: P parts of this worker.
        first: of the parts to work on.
        end: one after the last.
        ids: (W, F, S) int32.
        pairs: (P, W · S) int64, takes which ids fall into each part.
        counts: (P,) int64, takes how many they are.
        out: (W · S, D_all) float32.
    """
    shape = *ids.shape, out.shape[1]
    _LIBRARY["serve"](parts, first, end, *shape, ids, pairs, counts, out)


def apply(
    parts: Parts,
    first: int,
    end: int,
    pairs: Tensor,
    counts: Tensor,
    optimizer: Optimizer,
    grad: Tensor,
) -> None:
    """Makes one optimiser step on what :func:`serve` has found.

    The other arguments are those of :func:`serve`; grad is (W · S, D_all) float32.

    Raises:
        MemoryError: no memory to sort the ids; nothing has changed.
    """
    given = parts, first, end, *grad.shape, pairs, counts
    if _LIBRARY["apply"](*given, *optimizer, grad):
        raise MemoryError("no memory to sort the ids of a step")
