"""Hash partition of the vocabularies: the parts of columns that one process merges."""

from collections.abc import Sequence
from dataclasses import dataclass

from ctrdist.native.distinct import BUCKETS
from preprocessing.scan.shard_values import ValuesIndex

ENTRY_BYTES = 72
"""Measured bytes of memory that merging takes for each value, beside its text."""


@dataclass(frozen=True)
class Part:
    """The buckets [first, last) of a column."""

    column: str
    first: int
    last: int


def plan_groups(
    indices: Sequence[ValuesIndex], columns: Sequence[str], *, max_bytes: int
) -> list[list[Part]]:
    """The groups of parts of which one process each merges; a column has 256 parts at most.

    `max_bytes` is the memory for merging a group, as if no two shards had a value in common.
    """
    needs = dict.fromkeys(columns, 0)
    for index in indices:
        for column, entries, size in zip(index.columns, index.entries, index.bytes, strict=True):
            if column in needs:
                needs[column] += entries * ENTRY_BYTES + size
    groups: list[list[Part]] = []
    small: list[Part] = []  # columns that share a group, and the memory that they need
    needed = 0
    for column, need in needs.items():
        parts = 1
        while parts < BUCKETS and need > parts * max_bytes:
            parts *= 2
        width = BUCKETS // parts
        if parts > 1:
            groups += [[Part(column, b, b + width)] for b in range(0, BUCKETS, width)]
            continue
        if small and needed + need > max_bytes:
            groups.append(small)
            small, needed = [], 0
        small.append(Part(column, 0, BUCKETS))
        needed += need
    return groups + ([small] if small else [])
