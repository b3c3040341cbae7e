"""Scan files: the rows of a shard with local ids, in blocks of arrays of the narrowest types.

A file has the bytes of all arrays, then a JSON list of the blocks (for each array its title, type,
length, offset, size and whether it is compressed), and last the size of that list. Local ids are
small while a dictionary is, and most numbers of logs are exact in 32 bits: a row takes half the
bytes that it would in an Arrow file, whose columns have one type throughout.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any

import numpy as np
import pyarrow as pa

from ctrdist.features.encode import LocalRows
from ctrdist.storage import Store

_ALIGNED = 8
_PACKED = 64
"""Bytes from which an array is compressed, in stores that are not local."""


class ScanFileWriter:
    """Writes a scan file. A context manager: the file exists once the block ends without error."""

    def __init__(self, store: Store, name: str) -> None:
        self._opening = store.write(name)
        self._codec = None if store.local else pa.Codec("lz4")
        self._blocks: list[Any] = []
        self._offset = 0

    def __enter__(self) -> ScanFileWriter:
        self._file: IO[bytes] = self._opening.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                index = json.dumps(self._blocks).encode()
                self._file.write(index + len(index).to_bytes(8, "little"))
        except BaseException as late:
            self._opening.__exit__(type(late), late, late.__traceback__)
            raise
        self._opening.__exit__(kind, error, trace)

    def write(self, rows: LocalRows) -> None:
        """Appends a block."""
        arrays = [self._array(title, array) for title, array in _arrays(rows)]
        self._blocks.append(arrays)

    def _array(self, title: str, array: np.ndarray) -> list[Any]:
        array = np.ascontiguousarray(_narrow(array))
        content: Any = array.view(np.uint8).data
        packed = self._codec is not None and array.nbytes >= _PACKED
        if self._codec is not None and packed:
            content = self._codec.compress(content, asbytes=True)
        entry = [title, array.dtype.str, len(array), self._offset, len(content), packed]
        self._file.write(content)
        padding = -len(content) % _ALIGNED
        self._file.write(bytes(padding))
        self._offset += len(content) + padding
        return entry


def read_scan_file(store: Store, name: str) -> Iterator[LocalRows]:
    """Reads the blocks of a shard in order; those of a local file are in its memory map."""
    if store.local:
        with open(store.path(name), "rb") as file:
            content: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    else:
        content = store.get(name)
    size = int.from_bytes(content[-8:], "little")
    for block in json.loads(content[-8 - size : -8]):
        yield _rows({entry[0]: _read(content, *entry[1:]) for entry in block})


def _read(content: Any, kind: str, length: int, offset: int, size: int, packed: bool) -> np.ndarray:
    dtype = np.dtype(kind)
    if not packed:
        return np.frombuffer(content, dtype, length, offset)
    raw = pa.Codec("lz4").decompress(content[offset : offset + size], length * dtype.itemsize)
    return np.frombuffer(raw, dtype)


def _narrow(array: np.ndarray) -> np.ndarray:
    """The same values in fewer bytes, where one pass can tell that they fit."""
    if array.dtype == np.int32 and len(array):
        low, high = int(array.min()), int(array.max())
        for kind in (np.int8, np.int16):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return array.astype(kind)
    if array.dtype == np.float64:
        single = array.astype(np.float32)
        if np.array_equal(single.astype(np.float64), array, equal_nan=True):
            return single
    return array


def _arrays(rows: LocalRows) -> Iterator[tuple[str, np.ndarray]]:
    yield "label", rows.label.astype(np.int8)
    for name, values in rows.numbers.items():
        yield f"number {name}", values
    for name, codes in rows.local_ids.items():
        yield f"code {name}", codes
    for name, (ends, codes) in rows.lists.items():
        yield f"ends {name}", ends - ends[0]
        yield f"list {name}", codes[ends[0] : ends[-1]]
    for name, ids in rows.crosses.items():
        yield f"cross {name}", ids
    for title, column in (
        ("timestamp", rows.timestamp),
        ("user", rows.user),
        ("hash", rows.row_hash),
    ):
        if column is not None:
            yield title, column


def _rows(arrays: dict[str, np.ndarray]) -> LocalRows:
    rows = LocalRows(arrays["label"].astype(np.float32))
    for title, array in arrays.items():
        kind, _, name = title.partition(" ")
        if kind == "number":
            rows.numbers[name] = array.astype(np.float64, copy=False)
        elif kind == "code":
            rows.local_ids[name] = array
        elif kind == "ends":
            rows.lists[name] = (array.astype(np.int32), arrays[f"list {name}"])
        elif kind == "cross":
            rows.crosses[name] = array.astype(np.int32)
    rows.timestamp, rows.user = arrays.get("timestamp"), arrays.get("user")
    rows.row_hash = arrays.get("hash")
    return rows
