"""The rows of a shard between scanning and encoding: an Arrow file, one batch per block."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from preprocessing.config import PreprocessConfig
from preprocessing.scanned import Scanned, counted, measured
from preprocessing.store import Store

_LABEL, _TIME, _USER, _HASH = "label", "timestamp", "user", "row hash"


def _schema(config: PreprocessConfig) -> pa.Schema:
    kinds = [pa.field(_LABEL, pa.float32())]
    kinds += [pa.field(f"number {c.name}", pa.float64()) for c in measured(config)]
    for column in counted(config):
        kind = pa.list_(pa.int32()) if column.role == "multi_valued" else pa.int32()
        kinds.append(pa.field(f"code {column.name}", kind))
    kinds += [pa.field(f"code {name}", pa.int32()) for name in config.derived]
    kinds += [pa.field(f"cross {c.name}", pa.int32()) for c in config.crosses]
    if config.of_role("timestamp"):
        kinds.append(pa.field(_TIME, pa.int64()))
    if config.of_role("user"):
        kinds.append(pa.field(_USER, pa.int64()))
    if config.split.by == "hash":
        kinds.append(pa.field(_HASH, pa.uint64()))
    return pa.schema(kinds)


class CodedWriter:
    """Writes the blocks of a shard. Use as a context; the file is there once it ends well."""

    def __init__(self, store: Store, name: str, config: PreprocessConfig) -> None:
        self._schema = _schema(config)
        self._opening = store.write(name)
        # Beyond this machine, bytes cost more than the time to make them fewer.
        self._options = pa.ipc.IpcWriteOptions(compression=None if store.local else "lz4")

    def __enter__(self) -> CodedWriter:
        self._file = pa.ipc.new_file(self._opening.__enter__(), self._schema, options=self._options)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._file.close()
        except BaseException as late:
            self._opening.__exit__(type(late), late, late.__traceback__)
            raise
        self._opening.__exit__(kind, error, trace)

    def write(self, rows: Scanned) -> None:
        """Appends a block."""
        self._file.write_batch(
            pa.RecordBatch.from_arrays(
                [_column(rows, field.name) for field in self._schema], schema=self._schema
            )
        )


def read_coded(store: Store, name: str) -> Iterator[Scanned]:
    """The blocks of a shard, in order; local ones lie in the file's memory map."""
    with store.input(name) as source, pa.ipc.open_file(source) as file:
        for index in range(file.num_record_batches):
            yield _rows(file.get_batch(index))


def _column(rows: Scanned, title: str) -> pa.Array:
    kind, _, name = title.partition(" ")
    if title == _HASH:
        return pa.array(rows.row_hash)
    values: Any
    if kind == "code" and name in rows.lists:
        offsets, codes = rows.lists[name]
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(codes))
    if kind == "number":
        values = rows.numbers[name]
    elif kind == "code":
        values = rows.codes[name]
    elif kind == "cross":
        values = rows.crosses[name]
    else:
        values = {_LABEL: rows.label, _TIME: rows.timestamp, _USER: rows.user}[title]
    return pa.array(values)  # NaN stays NaN


def _rows(batch: pa.RecordBatch) -> Scanned:
    rows = Scanned(_numpy(batch.column(0)), {}, {}, {})
    for title, column in zip(batch.schema.names, batch.columns, strict=True):
        kind, _, name = title.partition(" ")
        if title == _HASH:
            rows.row_hash = _numpy(column)
        elif kind == "code" and pa.types.is_list(column.type):
            rows.lists[name] = (_numpy(column.offsets), _numpy(column.values))
        elif kind == "code":
            rows.codes[name] = _numpy(column)
        elif kind == "number":
            rows.numbers[name] = _numpy(column)
        elif kind == "cross":
            rows.crosses[name] = _numpy(column)
        elif title == _TIME:
            rows.timestamp = _numpy(column)
        elif title == _USER:
            rows.user = _numpy(column)
    return rows


def _numpy(column: pa.Array) -> np.ndarray:
    return column.to_numpy(zero_copy_only=True)
