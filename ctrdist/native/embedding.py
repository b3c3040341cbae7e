"""Lookup and fused update of embedding tables on a CPU, for ranges of tables or of their parts.

Each call works on one thread and without the GIL, so that a caller can give every core its own
range. Where there is no C compiler, FBGEMM does this work (ctrdist.sharding.cpu).
"""

# T tables, P parts of tables, B rows of the batch, N lookups, D_all width of all tables together
# W workers, F fields, S rows of the worker that has most

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctrdist.native.build import FLOAT, INT, LONG, POINTER, NativeLibrary

if TYPE_CHECKING:
    from torch import Tensor

MAX_ROWS = 2**32
"""Rows of a table: ids are sorted as 32-bit numbers."""
SGD, ADAGRAD, ROWWISE_ADAGRAD = 0, 1, 2
_RANGE = (POINTER, LONG, LONG)
_LIBRARY = NativeLibrary(
    "embedding",
    lookup=(LONG, *_RANGE, LONG, LONG, POINTER, POINTER, INT, POINTER),
    update=(INT, *_RANGE, LONG, LONG, POINTER, POINTER, INT, INT, FLOAT, FLOAT, POINTER),
    publish=(LONG, POINTER, POINTER, LONG, LONG, LONG, POINTER),
    serve=(None, *_RANGE, LONG, LONG, LONG, LONG, POINTER, POINTER, POINTER, POINTER),
    apply=(INT, *_RANGE, LONG, LONG, POINTER, POINTER, INT, FLOAT, FLOAT, POINTER),
)


class TablePart(ctypes.Structure):
    """A table or a part of one, in embedding.c `Table`."""

    _fields_ = (
        ("weights", POINTER),
        ("state", POINTER),
        ("rows", LONG),
        ("dim", LONG),
        ("column", LONG),
        ("first_row", LONG),
        ("field", LONG),
    )


Parts = ctypes.Array[TablePart]


@dataclass(frozen=True)
class Optimizer:
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
    bad = _library().ctrdist_lookup(
        parts, first, end, *out.shape, ids.data_ptr(), offsets.data_ptr(), mean, out.data_ptr()
    )
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
    if _library().ctrdist_update(
        *(parts, first, end, *grad.shape, ids.data_ptr(), offsets.data_ptr(), mean),
        *(optimizer.algorithm, optimizer.rate, optimizer.eps, grad.data_ptr()),
    ):
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
    bad = _library().ctrdist_publish(
        given.data_ptr(), rows.data_ptr(), fields, len(given) // fields, stride, ids.data_ptr()
    )
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
    _library().ctrdist_serve(
        *(parts, first, end, *ids.shape, out.shape[1], ids.data_ptr(), pairs.data_ptr()),
        *(counts.data_ptr(), out.data_ptr()),
    )


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
    if _library().ctrdist_apply(
        *(parts, first, end, *grad.shape, pairs.data_ptr(), counts.data_ptr()),
        *(optimizer.algorithm, optimizer.rate, optimizer.eps, grad.data_ptr()),
    ):
        raise MemoryError("no memory to sort the ids of a step")


def _library() -> ctypes.CDLL:
    library = _LIBRARY.load()
    assert library is not None, "no C compiler: see has_embedding"
    return library
