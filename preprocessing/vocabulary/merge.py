"""Merges the values of all shards, group by group: distinct values, counted and ordered.

A group's result does not depend on how the columns were partitioned into groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Literal

import numpy as np

from ctrdist.errors import ConfigError, DataError
from ctrdist.features.hashing import HASH_KEY, bucket_ids
from ctrdist.native.distinct import Distinct, distinct, order
from ctrdist.storage import Store
from preprocessing.config.settings import ColumnConfig, PreprocessConfig
from preprocessing.scan.shard_values import ValuesIndex, edges_of, read_local_ids, read_range
from preprocessing.vocabulary.hash_partition import Part

_ROWS = 2**18


@dataclass(frozen=True)
class Rule:
    """Rule by which values of a column get an id of their own."""

    min_count: int = 1
    max_size: int | None = None
    """Upper bound of their number. The values of a parent keep their ids in any case."""
    num_buckets: int | None = None
    """Hash buckets: further ids, which values without an id of their own share. None: such values
    are unknown."""
    new_values: Literal["append", "unknown"] = "append"
    """With a parent: values that it lacks get ids after its own, or are unknown."""

    @classmethod
    def of(cls, column: ColumnConfig, config: PreprocessConfig) -> Rule:
        """The rule of a column.

        Raises:
            ConfigError: ids of new values would take the place of hash buckets.
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


@dataclass
class MergedPart:
    """The distinct values of a part, in a merged file.

    At byte `start` begin six arrays. First those of the kept values, in the order in which they get
    ids: counts, int64; the parent's ids of its values, int32; lengths, uint32; bytes. Then those
    of all distinct values, in the order of their indices: position among the kept values or −1,
    int32; and with hash buckets, its id among them, int32.
    """

    column: str
    first: int
    last: int
    start: int
    distinct: int
    kept: int
    """Values that may get an id: those of the parent, and new ones that are frequent enough."""
    inherited: int
    """Kept values of the parent; they come first."""
    bytes: int
    """Bytes of the kept values."""
    hashed: bool
    """The column has hash buckets."""

    @property
    def offsets(self) -> list[int]:
        """Bytes at which the six arrays begin, and the end."""
        sizes = (8 * self.kept, 4 * self.inherited, 4 * self.kept, self.bytes, 4 * self.distinct)
        offsets = [self.start]
        for size in (*sizes, 4 * self.distinct * self.hashed):
            offsets.append(offsets[-1] + size)
        return offsets

    @property
    def end(self) -> int:
        """The byte after it."""
        return self.offsets[-1]


@dataclass
class MergedGroup:
    """The files NAME.merged and NAME.index of a group.

    NAME.index has, for each shard and then each part, the index among the distinct values of each
    of the shard's entries, int32. At byte `footer` follow the entries at which each shard's part
    begins, int64 (shards · parts + 1,).
    """

    name: str
    shards: int
    footer: int
    parts: list[MergedPart]


def merge(
    store: Store,
    group: Sequence[Part],
    shards: Sequence[ValuesIndex],
    rules: Mapping[str, Rule],
    out: str,
    parents: Sequence[ValuesIndex] = (),
) -> MergedGroup:
    """Counts the values of a group over all shards, and orders those that may get an id.

    Writes OUT.merged and OUT.index. `shards` are in the order of the log, `rules` by column, and
    `parents` from :func:`write_parent`. Raises DataError where the parent is damaged.
    """
    columns = [part.column for part in group]
    tables = [distinct(part.first, part.last) for part in group]
    old: list[list[np.ndarray]] = [[] for _ in group]  # ids of parents' values, by index
    for index in parents:
        edges = edges_of(store, index, columns)
        for part, table, ids in zip(group, tables, old, strict=True):
            if part.column in edges:
                added = _add(store, index, edges[part.column], part, table)
                rows = edges[part.column][[part.first, part.last], 0]
                local = read_local_ids(store, index, edges[part.column])[slice(*rows)]
                before = sum(map(len, ids))
                if not np.array_equal(added, np.arange(before, before + len(added))):
                    raise DataError(
                        f"column {part.column}: the parent's vocabulary has a value twice. "
                        "Give a parent that preprocessing wrote."
                    )
                ids.append(local + np.int32(index.first_id or 0))
    sizes: np.ndarray = np.zeros((len(shards), len(group)), np.int64)
    with store.write(f"{out}.index") as file:
        for s, index in enumerate(shards):
            edges = edges_of(store, index, columns)
            for p, (part, table) in enumerate(zip(group, tables, strict=True)):
                added = _add(store, index, edges[part.column], part, table)
                sizes[s, p] = len(added)
                file.write(added.data)
        file.write(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64).data)
    merged = MergedGroup(out, len(shards), 4 * int(sizes.sum()), [])
    with store.write(f"{out}.merged") as file:
        start = 0
        while tables:  # each is freed once it is written
            part, table = group[len(merged.parts)], tables.pop(0)
            written = _write_part(file, start, part, table, old.pop(0), rules[part.column])
            start = written.end
            merged.parts.append(written)
            del table
    return merged


def _add(
    store: Store, index: ValuesIndex, edges: np.ndarray, part: Part, table: Distinct
) -> np.ndarray:
    blocks = read_range(store, index, edges, part.first, part.last)
    return table.add(blocks, edges[part.first : part.last + 1, 0])


def _write_part(
    file: IO[bytes], start: int, part: Part, table: Distinct, old: list[np.ndarray], rule: Rule
) -> MergedPart:
    """Orders a part's values and writes them, see :class:`MergedPart`."""
    table.finish()
    counts, texts = table.counts, table.values
    inherited = sum(map(len, old))
    parents = np.concatenate([np.empty(0, np.int32), *old])
    by_id = np.argsort(parents).astype(np.int32)
    new = inherited + np.flatnonzero(counts[inherited:] >= rule.min_count).astype(np.int32)
    if old and rule.new_values == "unknown":
        new = new[:0]
    new = order(new, counts, texts)
    if rule.max_size is not None:  # no more than these can be among the first of all parts
        new = new[: max(0, rule.max_size - inherited)]
    chosen = np.concatenate([by_id, new]).astype(np.int32)
    lengths = (texts.starts[1:][chosen] - texts.starts[chosen]).astype(np.uint32)
    position: np.ndarray = np.full(len(texts), -1, np.int32)
    position[chosen] = np.arange(len(chosen), dtype=np.int32)
    for array in (counts[chosen], parents[by_id], lengths):
        file.write(array.data)
    for at in range(0, len(chosen), _ROWS):
        file.write(texts.take(chosen[at : at + _ROWS]).content.data)
    file.write(position.data)
    if rule.num_buckets is not None:
        file.write(bucket_ids(texts.siphash(HASH_KEY), rule.num_buckets).data)
    return MergedPart(
        part.column,
        part.first,
        part.last,
        start=start,
        distinct=len(texts),
        kept=len(chosen),
        inherited=inherited,
        bytes=int(lengths.sum(dtype=np.int64)),
        hashed=rule.num_buckets is not None,
    )
