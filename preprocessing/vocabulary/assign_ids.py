"""Ids of a column's values over all its merged parts, in the memory of one block of each.

A part's values are ordered: those of a parent by its ids, then new ones by falling count, equal
counts by bytes. In rounds, what no part can still precede is taken from all of them, brought into
one order and written to the vocabulary.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ctrdist.errors import DataError
from ctrdist.native.distinct import order
from ctrdist.native.strings import Strings
from ctrdist.schema import FIRST_VALUE_ID
from ctrdist.storage import Store
from preprocessing.vocabulary.file import new_vocabulary

ROUND_ROWS = 2**20
"""Values that are held, of all parts together."""
ROUND_BYTES = 2**28
"""Bytes of values that are held."""
_MAX_IDS = 2**31 - 1
_NEW = _MAX_IDS  # in the place of a parent's id, for a value that it lacks


@dataclass
class MergedPart:
    """The distinct values of some buckets of a column, in a merged file. Made of JSON's types.

    From byte `place`: counts, int64; ids of the parent's values, int32; lengths, uint32; bytes;
    then of each distinct value, in the order of its index, its place among the kept ones, int32, or
    −1, and where there is a hashed tail, which of its ids the value would have, int32.
    """

    column: str
    first: int
    last: int
    place: int
    distinct: int
    kept: int
    """Values that may get an id: of the parent, or frequent enough."""
    known: int
    """Of these, values of the parent; they are the first."""
    bytes: int
    """Of the kept values."""
    tailed: bool

    @property
    def places(self) -> list[int]:
        """Where counts, ids, lengths, bytes, ranks, tail begin, and the end."""
        sizes = (8 * self.kept, 4 * self.known, 4 * self.kept, self.bytes, 4 * self.distinct)
        places = [self.place]
        for size in (*sizes, 4 * self.distinct * self.tailed):
            places.append(places[-1] + size)
        return places

    @property
    def end(self) -> int:
        """The byte after it."""
        return self.places[-1]

    def rank(self, store: Store, name: str) -> np.ndarray:
        """(distinct,) int32: place of each value among the kept ones, −1 where it is not."""
        return self._read(store, name, 4)

    def tail(self, store: Store, name: str) -> np.ndarray:
        """(distinct,) int32: hash of each value modulo num_buckets."""
        return self._read(store, name, 5)

    def _read(self, store: Store, name: str, section: int) -> np.ndarray:
        raw = store.get_range(f"{name}.merged", *self.places[section : section + 2])
        return np.frombuffer(raw, np.int32)


@dataclass
class MergeSummary:
    """A merged group. Made of JSON's types."""

    name: str
    """Of the files NAME.merged and NAME.index. The latter has, for each shard and then each part,
    the index of each entry's value, int32."""
    shards: int
    footer: int
    """Byte of NAME.index at which begins where each shard's entries of each part begin, int64."""
    parts: list[MergedPart]

    def __post_init__(self) -> None:
        self.parts = [p if isinstance(p, MergedPart) else MergedPart(**p) for p in self.parts]


@dataclass
class NumberSummary:
    """A numbered column. Made of JSON's types."""

    column: str
    name: str
    """Of the file of ids: for each round and then each part, the ids given, int32."""
    rounds: int
    firsts: list[int]
    """First bucket of each part."""
    footer: int
    """Byte at which begins how many ids each round gave to each part, int64 (rounds, parts)."""
    size: int
    """Values with an id of their own."""
    known: int
    """Of these, values of the parent."""
    distinct: int
    """Values there are."""
    sha256: str
    """Of the vocabulary."""


def number(
    store: Store,
    column: str,
    merged: Sequence[MergeSummary],
    max_size: int | None,
    vocabulary_store: Store,
    vocabulary: str,
    out: str,
) -> NumberSummary:
    """Gives ids to a column's values and writes its vocabulary.

    Args:
        store: that of the merged groups, and of the ids.
        column: the field.
        merged: all groups, or those that have the column.
        max_size: only so many values get an id; those of a parent do in any case.
        vocabulary_store: the data set.
        vocabulary: name of the file there: value string, id int32, count int64, in order of id.
        out: name of the file of ids.

    Raises:
        DataError: more values than there are ids, or a parent that is not whole.
    """
    found = [(group.name, part) for group in merged for part in group.parts]
    found = sorted((x for x in found if x[1].column == column), key=lambda x: x[1].first)
    parts = [part for _, part in found]
    known, limit = sum(p.known for p in parts), sum(p.kept for p in parts)
    if max_size is not None:
        limit = min(limit, max(known, max_size))
    if FIRST_VALUE_ID + limit > _MAX_IDS:
        raise DataError(
            f"column {column}: {limit:,} values are to get an id, and ids end at {_MAX_IDS:,}. "
            "Set max_size or a higher min_count, or `encoding: hash`."
        )
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
            _check_parent(values.parents[ordered], ids[ordered], column)
            writer.write(texts, first, values.counts[ordered])
            cuts = np.cumsum([0, *lengths])
            given.append([int((ids[a:b] >= 0).sum()) for a, b in pairwise(cuts)])
            file.write(ids[ids >= 0].data)
            done += len(ordered)
        file.write(np.array(given, np.int64).tobytes())
    return NumberSummary(
        column=column,
        name=out,
        rounds=len(given),
        firsts=[p.first for p in parts],
        footer=4 * done,
        size=done,
        known=known,
        distinct=sum(p.distinct for p in parts),
        sha256=writer.sha256,
    )


def ids_of_part(store: Store, numbered: NumberSummary, first: int) -> np.ndarray:
    """Ids of the values of the part that begins with bucket `first`.

    Returns:
        int32, in the part's order; values that come after these have no id.
    """
    shape = numbered.rounds, len(numbered.firsts)
    raw = store.get_range(numbered.name, numbered.footer, numbered.footer + 8 * shape[0] * shape[1])
    edges = np.concatenate([[0], np.cumsum(np.frombuffer(raw, np.int64))])
    place = numbered.firsts.index(first)
    ids = [np.empty(0, np.int32)]
    for r in range(numbered.rounds):
        start, end = edges[r * shape[1] + place : r * shape[1] + place + 2].tolist()
        if end > start:
            ids.append(np.frombuffer(store.get_range(numbered.name, 4 * start, 4 * end), np.int32))
    return np.concatenate(ids)


@dataclass
class _Values:
    """Some values of one part, or of several one after the other."""

    parents: np.ndarray
    """(n,) int32: the parent's id, _NEW for others."""
    counts: np.ndarray
    texts: Strings

    def key(self, index: int) -> tuple[int, int, bytes]:
        return int(self.parents[index]), -int(self.counts[index]), self.texts[index]

    def order(self, *, sorted_already: bool) -> np.ndarray:
        """int32 (n,): the places in the order of ids."""
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
        self.held = _Values(np.empty(0, np.int32), np.empty(0, np.int64), _no_texts())

    @property
    def ended(self) -> bool:
        """Whether all that is left of the part is held."""
        return self._next == self._part.kept

    def fill(self) -> None:
        """Reads on, so that about the wanted number is held, or one at least."""
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
        known = min(self._part.known, end)
        parents: np.ndarray = np.full(end - start, _NEW, np.int32)
        if start < known:
            parents[: known - start] = self._read(1, 4 * start, 4 * known, np.int32)
        content = self._read(3, self._byte, self._byte + size, np.uint8)
        self._next, self._byte = end, self._byte + size
        more = _Values(parents, counts, Strings.from_lengths(lengths, content))
        self.held = _Values.joined([self.held, more]) if len(self.held.counts) else more

    def take(self, bound: tuple[int, int, bytes] | None) -> _Values:
        """Hands over what is held and not after `bound`; None: all."""
        size = len(self.held.counts)
        end = size if bound is None else bisect_right(range(size), bound, key=self.held.key)
        taken, self.held = self.held.part(0, end), self.held.part(end, size)
        return taken

    def _read(self, section: int, start: int, end: int, dtype: type) -> np.ndarray:
        place = self._part.places[section]
        return np.frombuffer(self._store.get_range(self._name, place + start, place + end), dtype)


def _round(streams: list[_Stream]) -> tuple[list[int], _Values]:
    """(how many of each part, values) of what precedes all that is not held yet."""
    for stream in streams:
        stream.fill()
    last = [s.held.key(len(s.held.counts) - 1) for s in streams if not s.ended]
    taken = [stream.take(min(last) if last else None) for stream in streams]
    return [len(values.counts) for values in taken], _Values.joined(taken)


def _check_parent(parents: np.ndarray, ids: np.ndarray, column: str) -> None:
    old = parents != _NEW
    if not np.array_equal(parents[old], ids[old]):
        raise DataError(
            f"column {column}: the parent's vocabulary has a value twice, or ids that are missing. "
            "Give a parent that preprocessing wrote."
        )


def _no_texts() -> Strings:
    return Strings(np.zeros(1, np.int64), np.empty(0, np.uint8))
