"""What a shard leaves for the vocabularies: its distinct values by column, in buckets by hash.

A file has for each column its blocks (see distinct.c) and its codes, int32, both in the order of
the buckets, so that any range of buckets is one range of bytes. At its end lies an int64 array
(columns, 257, 2): which entry, and which byte of the file, each bucket begins with.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.errors import DataError
from ctrdist.features.hashing import HASH_KEY
from ctrdist.native.distinct import BUCKETS, partition, read_blocks
from ctrdist.native.strings import Strings
from ctrdist.schema import FIRST_VALUE_ID, UNKNOWN_ID
from ctrdist.storage import Store

_EDGES = (BUCKETS + 1) * 2 * 8
PARENT_ROWS = 2**20
"""Values of a parent's vocabulary that are read at a time."""


@dataclass
class ColumnValues:
    """The distinct values of one column of a shard, in the order of their codes."""

    values: pa.Array
    """(n,) string or large_string."""
    hashes: np.ndarray
    """(n,) uint64, the same for equal values on any machine, and uniform."""
    counts: np.ndarray
    """(n,) int64: training rows that have the value; 0 where it is in other splits only."""


@dataclass
class ValuesIndex:
    """What a file of values holds. Made of JSON's types."""

    name: str
    """Of the file, in its store."""
    columns: list[str]
    entries: list[int]
    """Number of values of each column."""
    bytes: list[int]
    """Of the values of each column."""
    footer: int
    """Byte at which the array of edges begins."""
    first_id: int | None = None
    """Where the values are a part of a parent's vocabulary: the id of the first."""


def write_values(
    store: Store, name: str, columns: Mapping[str, ColumnValues], *, first_id: int | None = None
) -> ValuesIndex:
    """Writes the values of a shard.

    Args:
        store: where to.
        name: of the file.
        columns: categorical field → its values.
        first_id: see :class:`ValuesIndex`.
    """
    index = ValuesIndex(name, list(columns), [], [], 0, first_id)
    footer: np.ndarray = np.empty((len(columns), BUCKETS + 1, 2), np.int64)
    with store.write(name) as file:
        for edges, column in zip(footer, columns.values(), strict=True):
            texts = Strings.from_array(column.values)
            buckets = partition(texts, column.hashes, column.counts)
            edges[:, 0], edges[:, 1] = buckets.entries, buckets.offsets + index.footer
            codes = buckets.positions.tobytes()
            file.write(buckets.blocks.data)
            file.write(codes + bytes(-len(codes) % 8))
            index.footer += len(buckets.blocks) + -(-len(codes) // 8) * 8
            index.entries.append(len(texts))
            index.bytes.append(len(texts.content))
        file.write(footer.tobytes())
    return index


def write_parent(
    store: Store,
    name: str,
    parent: Store,
    vocabulary: str,
    column: str,
    hashes: Callable[[pa.Array], np.ndarray],
) -> list[ValuesIndex]:
    """Brings an earlier data set's vocabulary into the form of values, some at a time.

    Args:
        store: where to.
        name: of the files, which get a number each; there is one at least.
        parent: the earlier data set.
        vocabulary: the vocabulary's name in it.
        column: the field.
        hashes: as those of the shards' values.

    Raises:
        DataError: no vocabulary is there, or not one of a data set.
    """
    where = f"parent {parent.url}: {vocabulary}"
    try:
        file = pq.ParquetFile(parent.input(vocabulary))
    except FileNotFoundError as error:
        raise DataError(
            f"{where} does not exist. Give a finished data set whose column {column} has a "
            "vocabulary."
        ) from error
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{where} is no Parquet file ({error}). Give a finished data set."
        ) from error
    if not {"value", "id", "count"} <= set(file.schema_arrow.names):
        raise DataError(
            f"{where} has the columns {', '.join(file.schema_arrow.names)}; a vocabulary has "
            "value, id and count. Give a data set that preprocessing wrote."
        )
    written: list[ValuesIndex] = []
    first = FIRST_VALUE_ID
    nothing = pa.RecordBatch.from_pylist([], file.schema_arrow)
    for batch in itertools.chain(file.iter_batches(PARENT_ROWS), [nothing]):
        if written and not batch.num_rows:
            continue
        ids = batch.column("id").to_numpy()
        if not np.array_equal(ids, np.arange(first, first + len(ids))):
            raise DataError(
                f"{where} has ids that do not go from {FIRST_VALUE_ID} up by ones. "
                "Give a data set that preprocessing wrote."
            )
        values = batch.column("value")
        held = ColumnValues(values, hashes(values), batch.column("count").to_numpy())
        part = f"{name}.{len(written):05d}"
        written.append(write_values(store, part, {column: held}, first_id=first))
        first += len(ids)
    return written


def edges_of(store: Store, index: ValuesIndex, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Column → (257, 2) int64, see the module; columns that the file lacks are left out."""
    places = [index.columns.index(c) for c in columns if c in index.columns]
    if not places:
        return {}
    low, high = min(places), max(places) + 1
    raw = store.get_range(index.name, index.footer + low * _EDGES, index.footer + high * _EDGES)
    table = np.frombuffer(raw, np.int64).reshape(high - low, BUCKETS + 1, 2)
    return {index.columns[p]: table[p - low] for p in places}


def read_range(
    store: Store, index: ValuesIndex, edges: np.ndarray, first: int, last: int
) -> np.ndarray:
    """The blocks of the buckets [first, last) of a column, uint8."""
    raw = store.get_range(index.name, int(edges[first, 1]), int(edges[last, 1]))
    return np.frombuffer(raw, np.uint8)


def read_codes(store: Store, index: ValuesIndex, edges: np.ndarray) -> np.ndarray:
    """(n,) int32: the codes of a column in the order of its entries."""
    start = int(edges[BUCKETS, 1])
    raw = store.get_range(index.name, start, start + 4 * int(edges[BUCKETS, 0]))
    return np.frombuffer(raw, np.int32)


def read_values(store: Store, index: ValuesIndex) -> dict[str, ColumnValues]:
    """What :func:`write_values` was given, but for the counts, which are empty."""
    found: dict[str, ColumnValues] = {}
    for column, edges in edges_of(store, index, index.columns).items():
        codes = read_codes(store, index, edges)
        hashes, _, texts = read_blocks(read_range(store, index, edges, 0, BUCKETS), edges[:, 0])
        order = np.argsort(codes)
        found[column] = ColumnValues(
            texts.take(order).array(), hashes[order], np.zeros(0, np.int64)
        )
    return found


def hash_table(store: Store, index: ValuesIndex, column: str, num_buckets: int) -> np.ndarray:
    """Ids of a column that is hashed instead of having a vocabulary.

    Returns:
        (codes + 1,) int32: id of each code; the last, which code −1 reaches, is that of unknown.
    """
    edges = edges_of(store, index, [column])[column]
    _, _, texts = read_blocks(read_range(store, index, edges, 0, BUCKETS), edges[:, 0])
    table: np.ndarray = np.full(len(texts) + 1, UNKNOWN_ID, np.int32)
    table[read_codes(store, index, edges)] = FIRST_VALUE_ID + hash_buckets(texts, num_buckets)
    return table


def hash_buckets(values: Strings, num_buckets: int) -> np.ndarray:
    """(n,) int32: hash of each value modulo `num_buckets`, as in features.hashing."""
    return (values.siphash(HASH_KEY) % np.uint64(num_buckets)).astype(np.int32)
