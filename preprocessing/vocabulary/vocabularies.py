"""Vocabularies of any size: merged by group, numbered by column, assigned to the shards.

    write_values   a shard's distinct values  (shard_values)
    plan_groups    which columns, or which buckets of a column, one process merges
    merge          a group: its distinct values with their counts, ordered
    number         a column: ids over all its groups, and its vocabulary  (assign_ids)
    assign         a group: the id of each value of each shard
    code_table     a shard: code → id

No process holds more than a group. What comes out does not depend on how the groups were cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Literal, NamedTuple

import numpy as np

from ctrdist.errors import ConfigError, DataError
from ctrdist.features.columns import ColumnConfig
from ctrdist.native.distinct import BUCKETS, Distinct, distinct, order
from ctrdist.schema import FIRST_VALUE_ID, UNKNOWN_ID
from ctrdist.storage import Store
from preprocessing.config.settings import PreprocessConfig
from preprocessing.vocabulary.assign_ids import MergedPart, MergeSummary, NumberSummary, ids_of_part
from preprocessing.vocabulary.shard_values import (
    ValuesIndex,
    edges_of,
    hash_buckets,
    read_codes,
    read_range,
)

ENTRY_BYTES = 72
"""Memory that merging takes for each value, beside its own bytes; measured."""
_ROWS = 2**18


@dataclass(frozen=True)
class Rule:
    """Which values of a column get an id of their own."""

    min_count: int = 1
    max_size: int | None = None
    """At most so many; with a parent its own values remain in any case."""
    num_buckets: int | None = None
    """Values without an id of their own are hashed into so many further ids. None: unknown."""
    new_values: Literal["append", "unknown"] = "append"
    """With a parent: what becomes of values that it lacks."""

    @classmethod
    def of(cls, column: ColumnConfig, config: PreprocessConfig) -> Rule:
        """That of a column.

        Raises:
            ConfigError: new values are to get ids where hashed values have theirs.
        """
        append = config.new_values == "append"
        if config.parent and append and column.num_buckets is not None:
            raise ConfigError(
                f"columns: {column.name} has num_buckets {column.num_buckets}, whose ids follow "
                "those of the vocabulary, and with `parent` and `new_values: append` ids of new "
                "values would take their place. Set new_values to unknown, or preprocess without "
                "parent."
            )
        return cls(
            min_count=config.min_count if column.min_count is None else column.min_count,
            max_size=column.max_size,
            num_buckets=column.num_buckets,
            new_values=config.new_values,
        )


class Part(NamedTuple):
    """The buckets [first, last) of a column."""

    column: str
    first: int
    last: int


@dataclass
class Group:
    """What one process merges. Made of JSON's types."""

    parts: list[Part]

    def __post_init__(self) -> None:
        self.parts = [Part(*part) for part in self.parts]


@dataclass
class AssignSummary:
    """A file with the ids of all shards' values of a group. Made of JSON's types."""

    name: str
    shards: int
    footer: int
    """Byte at which begins where each shard's values of each part begin."""
    parts: list[Part]

    def __post_init__(self) -> None:
        self.parts = [Part(*part) for part in self.parts]


def plan_groups(
    indices: Sequence[ValuesIndex], columns: Sequence[str], *, max_bytes: int
) -> list[Group]:
    """Cuts the columns that have a vocabulary into groups.

    Args:
        indices: of the shards, and of parents.
        columns: whose vocabularies are wanted.
        max_bytes: memory that merging a group takes, as if no two shards had a value in common. A
            column is cut into 256 parts at most.
    """
    needs = dict.fromkeys(columns, 0)
    for index in indices:
        for column, entries, size in zip(index.columns, index.entries, index.bytes, strict=True):
            if column in needs:
                needs[column] += entries * ENTRY_BYTES + size
    groups: list[Group] = []
    together: list[Part] = []  # small columns, and what they need
    needed = 0
    for column, need in needs.items():
        parts = 1
        while parts < BUCKETS and need > parts * max_bytes:
            parts *= 2
        width = BUCKETS // parts
        if parts > 1:
            groups += [Group([Part(column, b, b + width)]) for b in range(0, BUCKETS, width)]
            continue
        if together and needed + need > max_bytes:
            groups.append(Group(together))
            together, needed = [], 0
        together.append(Part(column, 0, BUCKETS))
        needed += need
    return groups + ([Group(together)] if together else [])


def merge(
    store: Store,
    group: Group,
    shards: Sequence[ValuesIndex],
    rules: Mapping[str, Rule],
    out: str,
    parents: Sequence[ValuesIndex] = (),
) -> MergeSummary:
    """Counts the values of a group over all shards, and orders those that get an id.

    Args:
        store: that of the values, and of what is written.
        group: of :func:`plan_groups`.
        shards: in the order of the log.
        rules: by column.
        out: name of the files that are written, OUT.merged and OUT.index.
        parents: what write_parent gave, of any columns.

    Raises:
        DataError: a parent that is not whole.
    """
    columns = [part.column for part in group.parts]
    tables = [distinct(part.first, part.last) for part in group.parts]
    old: list[list[np.ndarray]] = [[] for _ in group.parts]  # ids of parents' values, by index
    for index in parents:
        edges = edges_of(store, index, columns)
        for part, table, ids in zip(group.parts, tables, old, strict=True):
            if part.column in edges:
                added = _add(store, index, edges[part.column], part, table)
                rows = edges[part.column][[part.first, part.last], 0]
                codes = read_codes(store, index, edges[part.column])[slice(*rows)]
                before = sum(map(len, ids))
                if not np.array_equal(added, np.arange(before, before + len(added))):
                    raise DataError(
                        f"column {part.column}: the parent's vocabulary has a value twice. "
                        "Give a parent that preprocessing wrote."
                    )
                ids.append(codes + np.int32(index.first_id or 0))
    sizes: np.ndarray = np.zeros((len(shards), len(group.parts)), np.int64)
    with store.write(f"{out}.index") as file:
        for s, index in enumerate(shards):
            edges = edges_of(store, index, columns)
            for p, (part, table) in enumerate(zip(group.parts, tables, strict=True)):
                added = _add(store, index, edges[part.column], part, table)
                sizes[s, p] = len(added)
                file.write(added.data)
        file.write(_edges(sizes).data)
    summary = MergeSummary(out, len(shards), 4 * int(sizes.sum()), [])
    with store.write(f"{out}.merged") as file:
        place = 0
        while tables:  # each is freed once it is written
            part, table = group.parts[len(summary.parts)], tables.pop(0)
            written = _finish(file, place, part, table, old.pop(0), rules[part.column])
            place = written.end
            summary.parts.append(written)
            del table
    return summary


def assign(
    store: Store,
    merged: MergeSummary,
    numbered: Mapping[str, NumberSummary],
    rules: Mapping[str, Rule],
    out: str,
) -> AssignSummary:
    """Writes the id of each shard's values of a group.

    Args:
        store: that of the merged group, and of what is written.
        merged: the group.
        numbered: by column.
        rules: by column.
        out: name of the file.
    """
    ids = []
    for part in merged.parts:
        rule, column = rules[part.column], numbered[part.column]
        rank = part.rank(store, merged.name)
        own = ids_of_part(store, column, part.first)
        if rule.num_buckets is None:
            table: np.ndarray = np.full(part.distinct, UNKNOWN_ID, np.int32)
        else:
            table = part.tail(store, merged.name) + np.int32(FIRST_VALUE_ID + column.size)
        chosen = (rank >= 0) & (rank < len(own))
        table[chosen] = own[rank[chosen]]
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
    return AssignSummary(out, merged.shards, merged.footer, parts)


def code_table(
    store: Store, index: ValuesIndex, shard: int, assigned: Sequence[AssignSummary]
) -> dict[str, np.ndarray]:
    """Ids of a shard's codes.

    Args:
        store: that of the values and of the assigned ids.
        index: of the shard.
        shard: its place among those that were merged.
        assigned: all groups.

    Returns:
        Column with a vocabulary → (codes + 1,) int32: the id of each code; the last entry, which
        code −1 reaches, is that of unknown.
    """
    columns = list(dict.fromkeys(part.column for group in assigned for part in group.parts))
    edges = edges_of(store, index, columns)
    codes = {column: read_codes(store, index, edges[column]) for column in columns}
    tables = {c: np.full(len(codes[c]) + 1, UNKNOWN_ID, np.int32) for c in columns}
    for group in assigned:
        number = len(group.parts)
        start = group.footer + 8 * shard * number
        raw = store.get_range(group.name, start, start + 8 * (number + 1))
        places = np.frombuffer(raw, np.int64)
        raw = store.get_range(group.name, 4 * int(places[0]), 4 * int(places[-1]))
        ids = np.frombuffer(raw, np.int32)
        for part, at, end in zip(group.parts, places[:-1], places[1:], strict=True):
            rows = edges[part.column][[part.first, part.last], 0]
            chosen = codes[part.column][slice(*rows)]
            tables[part.column][chosen] = ids[at - places[0] : end - places[0]]
    return tables


def _add(
    store: Store, index: ValuesIndex, edges: np.ndarray, part: Part, table: Distinct
) -> np.ndarray:
    blocks = read_range(store, index, edges, part.first, part.last)
    return table.add(blocks, edges[part.first : part.last + 1, 0])


def _edges(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _finish(
    file: IO[bytes], place: int, part: Part, table: Distinct, old: list[np.ndarray], rule: Rule
) -> MergedPart:
    """Orders a part's values and writes it, see :class:`MergedPart`."""
    table.finish()
    counts, texts = table.counts, table.values
    known = sum(map(len, old))
    parents = np.concatenate([np.empty(0, np.int32), *old])
    by_id = np.argsort(parents).astype(np.int32)
    new = known + np.flatnonzero(counts[known:] >= rule.min_count).astype(np.int32)
    if old and rule.new_values == "unknown":
        new = new[:0]
    new = order(new, counts, texts)
    if rule.max_size is not None:  # no more of them can be among the first
        new = new[: max(0, rule.max_size - known)]
    chosen = np.concatenate([by_id, new]).astype(np.int32)
    lengths = (texts.starts[1:][chosen] - texts.starts[chosen]).astype(np.uint32)
    rank: np.ndarray = np.full(len(texts), -1, np.int32)
    rank[chosen] = np.arange(len(chosen), dtype=np.int32)
    for array in (counts[chosen], parents[by_id], lengths):
        file.write(array.data)
    for start in range(0, len(chosen), _ROWS):
        file.write(texts.take(chosen[start : start + _ROWS]).content.data)
    file.write(rank.data)
    if rule.num_buckets is not None:
        file.write(hash_buckets(texts, rule.num_buckets).data)
    return MergedPart(
        *part,
        place=place,
        distinct=len(texts),
        kept=len(chosen),
        known=known,
        bytes=int(lengths.sum(dtype=np.int64)),
        tailed=rule.num_buckets is not None,
    )
