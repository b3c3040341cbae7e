"""Ids of each shard's values: files by group, and tables from local ids to ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctrdist.native.distinct import BUCKETS, read_blocks
from ctrdist.schema import FIRST_VALUE_ID, UNKNOWN_ID
from ctrdist.storage import Store
from preprocessing.scan.shard_values import ValuesIndex, edges_of, read_local_ids, read_range
from preprocessing.vocabulary.assign_ids import ColumnIds, ids_of_part
from preprocessing.vocabulary.hash_partition import Part
from preprocessing.vocabulary.merge import MergedGroup, Rule, hash_buckets

_ROWS = 2**18


@dataclass
class ShardIds:
    """A file with the ids of all shards' values of a group.

    It has, for each shard and then each part, the id of each of the shard's entries, int32. At byte
    `footer` follow the entries at which each shard's part begins, int64 (shards · parts + 1,).
    """

    name: str
    footer: int
    parts: list[Part]


def write_shard_ids(
    store: Store,
    merged: MergedGroup,
    columns: Mapping[str, ColumnIds],
    rules: Mapping[str, Rule],
    out: str,
) -> ShardIds:
    """Writes the ids of the values of all shards that are in a group.

    Args:
        store: that of the merged group, and of what is written.
        merged: the group.
        columns: by column.
        rules: by column.
        out: name of the file.
    """
    ids = []
    for part in merged.parts:
        rule, column = rules[part.column], columns[part.column]
        position = part.position(store, merged.name)
        own = ids_of_part(store, column, part.first)
        if rule.num_buckets is None:
            table: np.ndarray = np.full(part.distinct, UNKNOWN_ID, np.int32)
        else:
            table = part.hash_bucket(store, merged.name) + np.int32(FIRST_VALUE_ID + column.size)
        chosen = (position >= 0) & (position < len(own))
        table[chosen] = own[position[chosen]]
        ids.append(table)
    source = f"{merged.name}.index"
    number = merged.shards * len(merged.parts) + 1
    raw = store.get_range(source, merged.footer, merged.footer + 8 * number)
    edges = np.frombuffer(raw, np.int64)
    with store.write(out) as file:
        for i, (start, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
            for at in range(start, end, _ROWS):
                stop = min(at + _ROWS, end)
                index = np.frombuffer(store.get_range(source, 4 * at, 4 * stop), np.int32)
                file.write(np.take(ids[i % len(ids)], index).data)
        file.write(raw)
    parts = [Part(p.column, p.first, p.last) for p in merged.parts]
    return ShardIds(out, merged.footer, parts)


def id_tables(
    store: Store, index: ValuesIndex, shard: int, assigned: Sequence[ShardIds]
) -> dict[str, np.ndarray]:
    """The ids of a shard's local ids.

    Args:
        store: that of the values and of the assigned ids.
        index: of the shard.
        shard: its position among those that were merged.
        assigned: all groups.

    Returns:
        Column with a vocabulary → (local ids + 1,) int32: the id of each local id; the last entry,
        which local id −1 selects, is that of unknown.
    """
    columns = list(dict.fromkeys(part.column for group in assigned for part in group.parts))
    edges = edges_of(store, index, columns)
    local = {column: read_local_ids(store, index, edges[column]) for column in columns}
    tables = {c: np.full(len(local[c]) + 1, UNKNOWN_ID, np.int32) for c in columns}
    for group in assigned:
        number = len(group.parts)
        start = group.footer + 8 * shard * number
        raw = store.get_range(group.name, start, start + 8 * (number + 1))
        starts = np.frombuffer(raw, np.int64)
        raw = store.get_range(group.name, 4 * int(starts[0]), 4 * int(starts[-1]))
        ids = np.frombuffer(raw, np.int32)
        for part, at, end in zip(group.parts, starts[:-1], starts[1:], strict=True):
            rows = edges[part.column][[part.first, part.last], 0]
            chosen = local[part.column][slice(*rows)]
            tables[part.column][chosen] = ids[at - starts[0] : end - starts[0]]
    return tables


def hashed_id_table(store: Store, index: ValuesIndex, column: str, num_buckets: int) -> np.ndarray:
    """The ids of a shard's local ids, for a column that is hashed and has no vocabulary.

    Returns:
        (local ids + 1,) int32, as of :func:`id_tables`.
    """
    edges = edges_of(store, index, [column])[column]
    _, _, texts = read_blocks(read_range(store, index, edges, 0, BUCKETS), edges[:, 0])
    table: np.ndarray = np.full(len(texts) + 1, UNKNOWN_ID, np.int32)
    table[read_local_ids(store, index, edges)] = FIRST_VALUE_ID + hash_buckets(texts, num_buckets)
    return table
