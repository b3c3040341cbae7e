"""Rows of shuffle buffers in memory, and batches made of them."""

# W rows of a buffer, B rows of a batch, K numeric, C categorical fields

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.batch import Batch
from ctrdist.errors import DataError
from ctrdist.native.columns import permute
from ctrdist.schema import LABEL, CategoricalField, Schema, module_key


@dataclass
class Rows:
    """W rows, column by column. The arrays may be Arrow's memory, so they are read-only."""

    numeric_KW: np.ndarray
    """(K, W) float32."""
    single: np.ndarray
    """(n, W) int32: the single-valued fields."""
    multi: dict[str, tuple[np.ndarray, np.ndarray]]
    """Multi-valued field → (W + 1,) int64 offsets, and ids int32."""
    label_W: np.ndarray
    """(W,) float32."""
    user_W: np.ndarray | None
    """(W,) int64."""
    row_W: np.ndarray
    """(W,) int64: index in the split."""
    weight_W: np.ndarray | None = None
    """(W,) float32, as stored."""


def from_table(
    table: pa.Table,
    schema: Schema,
    row_W: np.ndarray,
    where: str,
    checked: Collection[str] = (),
    order_W: np.ndarray | None = None,
    label: str = LABEL,
) -> Rows:
    """Converts the columns of a table to arrays.

    Args:
        table: W rows with the schema's columns, see :func:`check_columns`.
        schema: schema of the data set.
        row_W: index of each row in its split.
        where: name of the source, for error messages.
        checked: categorical fields whose ids need no check against their vocabulary.
        order_W: brings the rows into another order: row order_W[i] comes to position i.
        label: the column of the label to train on.

    Raises:
        DataError: a column has nulls, or holds ids outside its vocabulary.
    """
    single, multi = [], {}
    for field in schema.categorical:
        array = _array(table, field.name, where)
        if field.multi_valued:
            offsets = array.offsets.to_numpy().astype(np.int64)
            ids = array.values.slice(offsets[0], offsets[-1] - offsets[0])
            lists = offsets - offsets[0], _ids(ids, field, where, checked)
            multi[field.name] = lists if order_W is None else _take_lists(*lists, order_W)
        else:
            single.append(_ids(array, field, where, checked))

    def column(name: str, dtype: Any) -> np.ndarray:
        values = _array(table, name, where).to_numpy().astype(dtype, copy=False)
        return values if order_W is None else values[order_W]

    numeric = [_array(table, name, where).to_numpy() for name in schema.numeric]
    return Rows(
        numeric_KW=_block(numeric, np.float32, order_W, len(row_W)),
        single=_block(single, np.int32, order_W, len(row_W)),
        multi=multi,
        label_W=column(label, np.float32),
        user_W=None if schema.user is None else column(schema.user, np.int64),
        row_W=row_W if order_W is None else row_W[order_W],
        weight_W=None if schema.weight is None else column(schema.weight, np.float32),
    )


def _block(
    columns: list[np.ndarray], dtype: Any, order_W: np.ndarray | None, rows: int
) -> np.ndarray:
    if order_W is not None:
        return permute(columns, order_W, dtype)
    return np.stack(columns, dtype=dtype) if columns else np.empty((0, rows), dtype)


def columns(schema: Schema, label: str = LABEL) -> list[str]:
    """Returns the Parquet columns that training on a label reads."""
    others = [name for name in (schema.user, schema.weight) if name]
    return [*schema.field_names, label, *others]


def check_columns(found: pa.Schema, schema: Schema, label: str, where: str) -> None:
    """Raises a DataError where a file lacks a column of the schema, or has one of another type."""
    present = set(found.names)
    missing = [name for name in columns(schema, label) if name not in present]
    if missing:
        raise DataError(
            f"{where}: no column {', '.join(missing)}, which schema.json names. "
            "Run jobs/preprocess.py again."
        )
    wanted: dict[str, pa.DataType] = dict.fromkeys(columns(schema, label), pa.float32())
    wanted |= {field.name: pa.int32() for field in schema.categorical}
    wanted |= {schema.user: pa.int64()} if schema.user else {}
    lists = {field.name for field in schema.categorical if field.multi_valued}
    for name, kind in wanted.items():
        given = found.field(name).type
        item = given.value_type if name in lists and pa.types.is_list(given) else given
        if item != kind or (name in lists) != pa.types.is_list(given):
            shown = f"list of {kind}" if name in lists else str(kind)
            raise DataError(
                f"{where}: column {name} is of type {given}, and schema.json means {shown}. The "
                "file is not of this preprocessing run; run jobs/preprocess.py again."
            )


def _array(table: pa.Table, name: str, where: str) -> pa.Array:
    column = table.column(name)
    if column.null_count:
        raise DataError(
            f"{where}: column {name} has {column.null_count} nulls; a preprocessed column has "
            "none. Preprocess again."
        )
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _ids(
    array: pa.Array, field: CategoricalField, where: str, checked: Collection[str]
) -> np.ndarray:
    ids = array.to_numpy()
    if field.name in checked:
        return ids.astype(np.int32, copy=False)
    # one pass over unsigned numbers, in which a negative id is a huge one
    if len(ids) and int(ids.view(f"u{ids.dtype.itemsize}").max()) >= field.vocabulary_size:
        raise DataError(
            f"{where}: column {field.name} holds ids from {ids.min()} to {ids.max()}; schema.json "
            f"allows 0 to {field.vocabulary_size - 1}. Schema and rows are not of one "
            "preprocessing run; preprocess again."
        )
    return ids.astype(np.int32, copy=False)


def weights_of_log(batch: Batch, negatives_kept: float) -> torch.Tensor | None:
    """(B,) weights with which a batch's rows stand for those of the log; None where all are alike.

    A row with label 0 of a split that was drawn from also stands for rows that were not drawn.
    """
    if negatives_kept == 1:
        return batch.weight_B
    drawn_B = torch.where(batch.label_B == 0, 1 / negatives_kept, 1.0)
    return drawn_B if batch.weight_B is None else drawn_B * batch.weight_B


class BatchMaker:
    """Makes batches of slices of buffers; caches the tensors that batches of one size share."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._keys = [module_key(field.name) for field in schema.categorical]
        self._lengths: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def batch(self, parts: Sequence[tuple[Rows, int, int]], global_size: int, stride: int) -> Batch:
        """Returns the batch of some rows of one or more buffers.

        Args:
            parts: (rows of a buffer, index of the first row to take, index after the last).
            global_size: rows of this step on all workers.
            stride: rows of the worker with the most. The ids are padded to it with rows without
                ids, as TorchRec's collectives need the same size on all workers.
        """

        def joined(column: Callable[[Rows], np.ndarray]) -> torch.Tensor:
            return torch.from_numpy(np.concatenate([column(w)[a:b] for w, a, b in parts]))

        has_user, has_weight = parts[0][0].user_W is not None, parts[0][0].weight_W is not None
        label_B = joined(lambda w: w.label_W)
        numeric_BK: np.ndarray = np.empty((len(label_B), len(self._schema.numeric)), np.float32)
        np.concatenate([w.numeric_KW[:, a:b].T for w, a, b in parts], out=numeric_BK)
        return Batch(
            numeric_BK=torch.from_numpy(numeric_BK),
            sparse=self._sparse(parts, len(label_B), stride),
            label_B=label_B,
            row_B=joined(lambda w: w.row_W),
            user_B=joined(lambda w: w.user_W) if has_user else None,  # type: ignore[arg-type, return-value]
            weight_B=joined(lambda w: w.weight_W) if has_weight else None,  # type: ignore[arg-type, return-value]
            global_size=global_size,
        )

    def _sparse(
        self, parts: Sequence[tuple[Rows, int, int]], size: int, stride: int
    ) -> KeyedJaggedTensor:
        single_CB = np.concatenate([w.single[:, a:b] for w, a, b in parts], axis=1)
        if not parts[0][0].multi:
            values = torch.from_numpy(single_CB.reshape(-1))
            lengths, offsets = self._one_each(size, stride)
            return KeyedJaggedTensor(
                self._keys, values, lengths=lengths, offsets=offsets, stride=stride
            )
        values_per_key: list[np.ndarray] = []
        lengths_per_key: list[np.ndarray] = []
        padding = np.zeros(stride - size, dtype=np.int32)
        next_single = 0
        for field in self._schema.categorical:
            if field.multi_valued:
                for buffer, a, b in parts:
                    offsets_W, ids = buffer.multi[field.name]
                    values_per_key.append(ids[offsets_W[a] : offsets_W[b]])
                    lengths_per_key.append(np.diff(offsets_W[a : b + 1]).astype(np.int32))
                lengths_per_key.append(padding)
            else:
                values_per_key.append(single_CB[next_single])
                lengths_per_key.extend([np.ones(size, dtype=np.int32), padding])
                next_single += 1
        return KeyedJaggedTensor(
            self._keys,
            torch.from_numpy(np.concatenate(values_per_key)),
            lengths=torch.from_numpy(np.concatenate(lengths_per_key)),
            stride=stride,
        )

    def _one_each(self, size: int, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns lengths and offsets: one id per key for each of `size` rows, none for padding."""
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
    offsets: np.ndarray, ids: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the offsets and the concatenated ids of the lists in another order."""
    begins = offsets[order]
    lengths = offsets[order + 1] - begins
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    # index of each id: it counts up within a list, from the begin of the list
    index = np.arange(total) + np.repeat(begins - (ends - lengths), lengths)
    return np.concatenate([[0], ends]), ids[index]
