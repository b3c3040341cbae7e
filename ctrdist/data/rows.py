"""Rows of a window in memory, as read from Parquet, and batches picked from them."""

# W rows of a window, B rows of a batch, K numeric, C categorical fields

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.errors import DataError
from ctrdist.protocols import Batch
from ctrdist.schema import CategoricalField, Schema


@dataclass
class Rows:
    """W rows, column by column."""

    numeric_WK: np.ndarray
    """(W, K) float32."""
    single_CW: np.ndarray
    """(fields that are not multi-valued, W) int32."""
    multi: dict[str, tuple[np.ndarray, np.ndarray]]
    """Multi-valued field → offsets (W + 1,) int64 and ids int32."""
    label_W: np.ndarray
    """(W,) float32."""
    user_W: np.ndarray | None
    """(W,) int64."""
    row_W: np.ndarray
    """(W,) int64: index in the split."""


def from_table(table: pa.Table, schema: Schema, row_W: np.ndarray, where: str) -> Rows:
    """Turns the columns of some row groups into arrays.

    Args:
        table: W rows with at least the schema's columns.
        schema: of the data set.
        row_W: index of each row in its split.
        where: name of the source, for error messages.

    Raises:
        DataError: a column is missing, has nulls, or holds ids outside its vocabulary.
    """
    missing = [name for name in columns(schema) if name not in table.column_names]
    if missing:
        raise DataError(
            f"{where}: no column {', '.join(missing)}, which schema.json names. "
            "Run jobs/preprocess.py again."
        )
    single = [field for field in schema.categorical if not field.multi_valued]
    single_CW = np.empty((len(single), table.num_rows), dtype=np.int32)
    for index, field in enumerate(single):
        single_CW[index] = _ids(_array(table, field.name, where), field, where)
    multi = {}
    for field in schema.categorical:
        if field.multi_valued:
            lists = _array(table, field.name, where)
            offsets = lists.offsets.to_numpy().astype(np.int64)
            ids = _ids(lists.values.slice(offsets[0], offsets[-1] - offsets[0]), field, where)
            multi[field.name] = (offsets - offsets[0], ids)
    numeric_WK = np.empty((table.num_rows, len(schema.numeric)), dtype=np.float32)
    for index, name in enumerate(schema.numeric):
        numeric_WK[:, index] = _array(table, name, where).to_numpy()
    label_W = _array(table, schema.label, where).to_numpy().astype(np.float32)
    user_W = (
        None
        if schema.user is None
        else _array(table, schema.user, where).to_numpy().astype(np.int64)
    )
    return Rows(numeric_WK, single_CW, multi, label_W, user_W, row_W)


def columns(schema: Schema) -> list[str]:
    """The Parquet columns that training reads."""
    return [*schema.field_names, schema.label, *([schema.user] if schema.user else [])]


def _array(table: pa.Table, name: str, where: str) -> pa.Array:
    column = table.column(name)
    if column.null_count:
        raise DataError(
            f"{where}: column {name} has {column.null_count} nulls; a preprocessed column has "
            "none. Preprocess again."
        )
    joined = column.combine_chunks()
    return joined.chunk(0) if isinstance(joined, pa.ChunkedArray) else joined


def _ids(array: pa.Array, field: CategoricalField, where: str) -> np.ndarray:
    ids = array.to_numpy()
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= field.vocabulary_size):
        raise DataError(
            f"{where}: column {field.name} holds ids from {ids.min()} to {ids.max()}; schema.json "
            f"allows 0 to {field.vocabulary_size - 1}. Schema and rows are not of one "
            "preprocessing run; preprocess again."
        )
    return ids.astype(np.int32, copy=False)


class BatchMaker:
    """Picks rows of a window into batches; keeps what is the same for all batches of one size."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._keys = [field.name for field in schema.categorical]
        self._lengths: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def batch(
        self, rows: Sequence[tuple[Rows, np.ndarray]], global_size: int, stride: int
    ) -> Batch:
        """The batch of some rows of one or more windows.

        Args:
            rows: windows, each with the (b,) positions of the rows wanted from it.
            global_size: rows of this step on all workers.
            stride: rows of the worker that has most; the ids are filled up to it with rows without
                any, as TorchRec's collectives need the same size everywhere.
        """
        label_B = np.concatenate([window.label_W[pick] for window, pick in rows])
        users = [window.user_W[pick] for window, pick in rows if window.user_W is not None]
        return Batch(
            numeric_BK=torch.from_numpy(np.concatenate([w.numeric_WK[pick] for w, pick in rows])),
            sparse=self._sparse(rows, len(label_B), stride),
            label_B=torch.from_numpy(label_B),
            row_B=torch.from_numpy(np.concatenate([w.row_W[pick] for w, pick in rows])),
            user_B=torch.from_numpy(np.concatenate(users)) if users else None,
            global_size=global_size,
        )

    def _sparse(
        self, rows: Sequence[tuple[Rows, np.ndarray]], size: int, stride: int
    ) -> KeyedJaggedTensor:
        single_CB = np.concatenate([np.take(w.single_CW, pick, axis=1) for w, pick in rows], axis=1)
        if not rows[0][0].multi:
            values = torch.from_numpy(single_CB.reshape(-1))
            lengths, offsets = self._one_each(size, stride)
            return KeyedJaggedTensor(
                self._keys, values, lengths=lengths, offsets=offsets, stride=stride
            )
        values_per_key: list[np.ndarray] = []
        lengths_per_key: list[np.ndarray] = []
        filling = np.zeros(stride - size, dtype=np.int32)
        next_single = 0
        for field in self._schema.categorical:
            if field.multi_valued:
                parts = [_take_lists(*w.multi[field.name], pick) for w, pick in rows]
                values_per_key.extend(ids for ids, _ in parts)
                lengths_per_key.extend([*(lengths for _, lengths in parts), filling])
            else:
                values_per_key.append(single_CB[next_single])
                lengths_per_key.extend([np.ones(size, dtype=np.int32), filling])
                next_single += 1
        return KeyedJaggedTensor(
            self._keys,
            torch.from_numpy(np.concatenate(values_per_key)),
            lengths=torch.from_numpy(np.concatenate(lengths_per_key)),
            stride=stride,
        )

    def _one_each(self, size: int, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Lengths and offsets: one id for each of `size` rows per key, none for the filling."""
        key = (size, stride)
        if key not in self._lengths:
            lengths_CB = torch.zeros(len(self._keys), stride, dtype=torch.int32)
            lengths_CB[:, :size] = 1
            lengths = lengths_CB.reshape(-1)
            offsets = torch.zeros(len(lengths) + 1, dtype=torch.int32)
            torch.cumsum(lengths, 0, out=offsets[1:])
            self._lengths[key] = (lengths, offsets)
        return self._lengths[key]


def _take_lists(
    offsets: np.ndarray, ids: np.ndarray, pick: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The picked lists: their ids one after the other, and their lengths (int32)."""
    begins = offsets[pick]
    lengths = offsets[pick + 1] - begins
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    # each id's index: counting up within its list, from where the list begins
    index = np.arange(total) + np.repeat(begins - (ends - lengths), lengths)
    return ids[index], lengths.astype(np.int32)
