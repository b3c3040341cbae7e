"""Scan files: the rows of a shard with local ids, in blocks of arrays of the narrowest types.

A file has the bytes of all arrays, then a JSON list of the blocks (for each array its title, type,
length, offset, size and whether it is compressed), and last the size of that list. Local ids are
small while a dictionary is, and most numbers of logs are exact in 32 bits: a row takes half the
bytes that it would in an Arrow file, whose columns have one type throughout.
"""

import json
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import pyarrow as pa

from ctrdist.features.encode import LocalRows
from ctrdist.storage import Store

_ALIGNED = 8
_PACKED = 64
"""Bytes from which an array is compressed, in stores that are not local."""


@contextmanager
def new_scan_file(store: Store, name: str) -> Iterator[Callable[[LocalRows], None]]:
    """A function that appends a block; the file exists once the context ends without an error."""
    codec = None if store.local else pa.Codec("lz4")
    blocks: list[list[list[Any]]] = []
    with store.write(name) as file:
        yield lambda rows: blocks.append([_write(file, codec, *array) for array in _arrays(rows)])
        index = json.dumps(blocks).encode()
        file.write(index + len(index).to_bytes(8, "little"))


def _write(file: IO[bytes], codec: pa.Codec | None, title: str, array: np.ndarray) -> list[Any]:
    """Appends an array; returns its entry in the list of the block."""
    array = np.ascontiguousarray(_narrow(array))
    content: Any = array.view(np.uint8).data
    packed = codec is not None and array.nbytes >= _PACKED
    if codec is not None and packed:
        content = codec.compress(content, asbytes=True)
    entry = [title, array.dtype.str, len(array), file.tell(), len(content), packed]
    file.write(content)
    file.write(bytes(-len(content) % _ALIGNED))
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
    columns = {"number": rows.numbers, "code": rows.local_ids, "cross": rows.crosses}
    for title, arrays in columns.items():
        yield from ((f"{title} {name}", array) for name, array in arrays.items())
    for name, (ends, local_ids) in rows.lists.items():
        yield f"ends {name}", ends - ends[0]
        yield f"list {name}", local_ids[ends[0] : ends[-1]]
    yield from ((f"further {name}", label.astype(np.int8)) for name, label in rows.labels.items())
    single = {"timestamp": rows.timestamp, "user": rows.user, "hash": rows.row_hash}
    single["weight"] = rows.weight
    yield from ((title, array) for title, array in single.items() if array is not None)


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
        elif kind == "further":
            rows.labels[name] = array.astype(np.float32)
    rows.timestamp, rows.user = arrays.get("timestamp"), arrays.get("user")
    rows.row_hash = arrays.get("hash")
    if "weight" in arrays:
        rows.weight = arrays["weight"].astype(np.float64, copy=False)
    return rows
