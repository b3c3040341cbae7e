"""Assigns ids to a column's values, writes its vocabulary, and gives each shard its ids.

A vocabulary is made from one block of each merged part at a time. The values of a part are ordered:
those of a parent by its ids, then new ones by falling count, equal counts by bytes. Each round
takes from all parts the values that precede all that is not read yet, brings them into one order
and appends them to the vocabulary.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ctrdist.errors import DataError
from ctrdist.features.hashing import HASH_KEY, bucket_ids
from ctrdist.native.distinct import BUCKETS, order, read_blocks
from ctrdist.native.strings import Strings
from ctrdist.schema import FIRST_VALUE_ID, UNKNOWN_ID
from ctrdist.storage import Store
from preprocessing.scan.shard_values import ValuesIndex, edges_of, read_local_ids, read_range
from preprocessing.vocabulary.file import new_vocabulary, vocabulary_rows
from preprocessing.vocabulary.hash_partition import Part
from preprocessing.vocabulary.merge import MergedGroup, MergedPart, Rule

ROUND_ROWS = 2**20
"""Upper bound of the values held of all parts together."""
ROUND_BYTES = 2**28
"""Upper bound of the bytes of the held values."""
_ROWS = 2**18
_MAX_IDS = 2**31 - 1
_NEW = _MAX_IDS  # stands for the parent's id of a value that it lacks


@dataclass
class ColumnIds:
    """The ids of a column's values, in a file."""

    column: str
    name: str
    """Name of the file. It has, for each round and then each part, the ids of the part's next
    values, int32."""
    rounds: int
    firsts: list[int]
    """First bucket of each part."""
    footer: int
    """Byte of the file at which begin the numbers of ids of each round and part, int64 (rounds,
    parts)."""
    size: int
    """Values with an id of their own."""
    sha256: str
    """Hash of the vocabulary file."""


@dataclass
class ShardIds:
    """A file with the ids of all shards' values of a group.

    It has, for each shard and then each part, the id of each of the shard's entries, int32. At byte
    `footer` follow the entries at which each shard's part begins, int64 (shards · parts + 1,).
    """

    name: str
    footer: int
    parts: list[Part]


def assign_ids(
    store: Store,
    column: str,
    merged: Sequence[MergedGroup],
    max_size: int | None,
    vocabulary_store: Store,
    vocabulary: str,
    out: str,
) -> ColumnIds:
    """Assigns ids to a column's values, writes them to OUT, and writes the vocabulary.

    `merged` are the groups that have the column. At most `max_size` values get an id, but those of
    a parent do in any case. Raises DataError where there are more values than ids.
    """
    found = [(group.name, part) for group in merged for part in group.parts]
    found = sorted((x for x in found if x[1].column == column), key=lambda x: x[1].first)
    limit = _num_ids(column, [part for _, part in found], max_size)
    streams = [_Stream(store, name, part, len(found)) for name, part in found]
    given: list[list[int]] = []
    done = 0
    with store.write(out) as file, new_vocabulary(vocabulary_store, vocabulary) as writer:
        while done < limit:
            lengths, values = _round(streams)
            ids: np.ndarray = np.empty(len(values.counts), np.int32)
            alone = len(streams) == 1
            ordered = values.order(sorted_already=alone)[: limit - done]
            texts = values.texts
            texts = texts.part(0, len(ordered)) if alone else texts.take(ordered)
            first = FIRST_VALUE_ID + done
            ids.fill(-1)
            ids[ordered] = np.arange(first, first + len(ordered), dtype=np.int32)
            writer.write(vocabulary_rows(texts, first, values.counts[ordered]))
            cuts = np.cumsum([0, *lengths])
            given.append([int((ids[a:b] >= 0).sum()) for a, b in pairwise(cuts)])
            file.write(ids[ids >= 0].data)
            done += len(ordered)
        file.write(np.array(given, np.int64).tobytes())
    return ColumnIds(
        column=column,
        name=out,
        rounds=len(given),
        firsts=[part.first for _, part in found],
        footer=4 * done,
        size=done,
        sha256=writer.sha256,
    )


def ids_of_part(store: Store, ids: ColumnIds, first: int) -> np.ndarray:
    """Ids of the values of the part that begins with bucket `first`.

    Returns:
        int32, in the part's order; the part's further values have no id.
    """
    shape = ids.rounds, len(ids.firsts)
    raw = store.get_range(ids.name, ids.footer, ids.footer + 8 * shape[0] * shape[1])
    edges = np.concatenate([[0], np.cumsum(np.frombuffer(raw, np.int64))])
    part = ids.firsts.index(first)
    found = [np.empty(0, np.int32)]
    for r in range(ids.rounds):
        start, end = edges[r * shape[1] + part : r * shape[1] + part + 2].tolist()
        if end > start:
            found.append(np.frombuffer(store.get_range(ids.name, 4 * start, 4 * end), np.int32))
    return np.concatenate(found)


def write_shard_ids(
    store: Store,
    merged: MergedGroup,
    columns: Mapping[str, ColumnIds],
    rules: Mapping[str, Rule],
    out: str,
) -> ShardIds:
    """Writes the ids of all shards' values of a group to OUT; `columns` and `rules` by column."""
    ids = []
    for part in merged.parts:
        rule, column = rules[part.column], columns[part.column]
        source = f"{merged.name}.merged"
        position, bucket = (
            np.frombuffer(store.get_range(source, *part.offsets[k : k + 2]), np.int32)
            for k in (4, 5)
        )
        own = ids_of_part(store, column, part.first)
        if rule.num_buckets is None:
            table: np.ndarray = np.full(part.distinct, UNKNOWN_ID, np.int32)
        else:
            table = bucket + np.int32(column.size)
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
    """The ids of a shard's local ids; `shard` is its position among those that were merged.

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
    """(local ids + 1,) int32 as of :func:`id_tables`, for a hashed column without a vocabulary."""
    edges = edges_of(store, index, [column])[column]
    _, _, texts = read_blocks(read_range(store, index, edges, 0, BUCKETS), edges[:, 0])
    table: np.ndarray = np.full(len(texts) + 1, UNKNOWN_ID, np.int32)
    ids = bucket_ids(texts.siphash(HASH_KEY), num_buckets)
    table[read_local_ids(store, index, edges)] = ids
    return table


def _num_ids(column: str, parts: Sequence[MergedPart], max_size: int | None) -> int:
    """The number of values that get an id."""
    number = sum(part.kept for part in parts)
    if max_size is not None:
        number = min(number, max(sum(part.inherited for part in parts), max_size))
    if FIRST_VALUE_ID + number > _MAX_IDS:
        raise DataError(
            f"column {column}: {number:,} values are to get an id, and ids end at {_MAX_IDS:,}. "
            "Set max_size or a higher min_count, or `encoding: hash`."
        )
    return number


@dataclass
class _Values:
    """Values of one part, or of several parts one after the other."""

    parents: np.ndarray
    """(n,) int32: the parent's id; _NEW for values that it lacks."""
    counts: np.ndarray
    texts: Strings

    def key(self, index: int) -> tuple[int, int, bytes]:
        return int(self.parents[index]), -int(self.counts[index]), self.texts[index]

    def order(self, *, sorted_already: bool) -> np.ndarray:
        """(n,) int32: the indices in the order of ids."""
        if sorted_already:
            return np.arange(len(self.counts), dtype=np.int32)
        old = np.flatnonzero(self.parents != _NEW)
        old = old[np.argsort(self.parents[old])]
        new = order(np.flatnonzero(self.parents == _NEW), self.counts, self.texts)
        return np.concatenate([old, new]).astype(np.int32)

    def part(self, start: int, end: int) -> _Values:
        texts = self.texts.part(start, end)
        return _Values(self.parents[start:end], self.counts[start:end], texts)

    @classmethod
    def joined(cls, values: Sequence[_Values]) -> _Values:
        if len(values) == 1:
            return values[0]
        lengths = np.concatenate([v.texts.lengths for v in values])
        return cls(
            np.concatenate([v.parents for v in values]),
            np.concatenate([v.counts for v in values]),
            Strings.from_lengths(lengths, np.concatenate([v.texts.content for v in values])),
        )


class _Stream:
    """Reads a merged part from its beginning to its end."""

    def __init__(self, store: Store, name: str, part: MergedPart, parts: int) -> None:
        self._store, self._name, self._part = store, f"{name}.merged", part
        self._rows = max(1, ROUND_ROWS // parts)
        self._max_bytes = max(1, ROUND_BYTES // parts)
        self._next, self._byte = 0, 0
        none = np.empty(0, np.int32)
        self.held = _Values(none, none, Strings.from_lengths(none, np.empty(0, np.uint8)))

    @property
    def ended(self) -> bool:
        """The rest of the part is held."""
        return self._next == self._part.kept

    def fill(self) -> None:
        """Reads further values, until about the wanted number is held, and at least one."""
        wanted = self._rows - len(self.held.counts)
        if self.ended or len(self.held.texts.content) >= self._max_bytes or wanted <= 0:
            return
        start, end = self._next, min(self._next + wanted, self._part.kept)
        lengths = self._read(2, 4 * start, 4 * end, np.uint32)
        reach = np.cumsum(lengths, dtype=np.int64)
        end = start + max(1, int(np.searchsorted(reach, self._max_bytes, side="right")))
        end = min(end, start + len(lengths))
        lengths, size = lengths[: end - start], int(reach[end - start - 1])
        counts = self._read(0, 8 * start, 8 * end, np.int64)
        inherited = min(self._part.inherited, end)
        parents: np.ndarray = np.full(end - start, _NEW, np.int32)
        if start < inherited:
            parents[: inherited - start] = self._read(1, 4 * start, 4 * inherited, np.int32)
        content = self._read(3, self._byte, self._byte + size, np.uint8)
        self._next, self._byte = end, self._byte + size
        more = _Values(parents, counts, Strings.from_lengths(lengths, content))
        self.held = _Values.joined([self.held, more]) if len(self.held.counts) else more

    def take(self, bound: tuple[int, int, bytes] | None) -> _Values:
        """Removes and returns the held values up to `bound`; None: all."""
        size = len(self.held.counts)
        end = size if bound is None else bisect_right(range(size), bound, key=self.held.key)
        taken, self.held = self.held.part(0, end), self.held.part(end, size)
        return taken

    def _read(self, array: int, start: int, end: int, dtype: type) -> np.ndarray:
        at = self._part.offsets[array]
        return np.frombuffer(self._store.get_range(self._name, at + start, at + end), dtype)


def _round(streams: list[_Stream]) -> tuple[list[int], _Values]:
    """The values that precede all that is not held yet, and how many of them each part has."""
    for stream in streams:
        stream.fill()
    last = [s.held.key(len(s.held.counts) - 1) for s in streams if not s.ended]
    taken = [stream.take(min(last) if last else None) for stream in streams]
    return [len(values.counts) for values in taken], _Values.joined(taken)
