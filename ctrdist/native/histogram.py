"""Counts of numbers by fixed bins, and of ids, by group of rows."""

# n values, G groups of rows, m bins that hold something

from functools import cache
from typing import NamedTuple

import numpy as np

from ctrdist.native.build import NativeLibrary

LOWEST, HIGHEST = -64, 64
"""Exponents of two: numbers nearer to 0 than 2^-64 count as 0, those beyond 2^64 as 2^64."""
_LIBRARY = NativeLibrary("histogram")


class Counted(NamedTuple):
    """Numbers counted by bin and group."""

    bins: np.ndarray
    """(m,) int64, rising; valid until the next count."""
    counts: np.ndarray
    """(m, G) int64; valid until the next count."""
    missing: np.ndarray
    """(G,) int64 NaN."""
    sum: float
    least: float
    """Infinite where there is no number."""
    greatest: float
    """Minus infinity where there is no number."""


def bins_of(values: np.ndarray, bits: int) -> np.ndarray:
    """(n,) int64 bin of each value, none of them NaN: 0 for zero, else with the value's sign.

    Each power of two is cut into 2^bits bins of equal width (DDSketch with a linear interpolation
    of the logarithm), which are bits of the float64 and need no arithmetic. All of a bin's values
    lie within 2^-bits of its edge towards zero, and integers up to 2^(bits + 1) are such edges,
    each with a bin of its own.
    """
    magnitude = np.abs(values).view(np.int64) >> (52 - bits)
    bins = np.clip(magnitude - ((1023 + LOWEST) << bits) + 1, 0, _greatest_bin(bits))
    return np.where(np.signbit(values), -bins, bins)


def edges_of(bins: np.ndarray, bits: int) -> np.ndarray:
    """(m,) float64 edge towards zero of each bin."""
    magnitude = (np.abs(bins) - 1 + ((1023 + LOWEST) << bits)) << (52 - bits)
    return np.where(bins == 0, 0.0, np.sign(bins) * magnitude.view(np.float64))


def count_numbers(values: np.ndarray, group: np.ndarray | None, groups: int, bits: int) -> Counted:
    """Counts numbers by :func:`bins_of` and group.

    Only one thread of a process may call it at a time.

    Args:
        values: (n,) float64, finite or NaN.
        group: (n,) uint8 below G; None where all rows are of group 0.
        groups: G.
        bits: see :func:`bins_of`.
    """
    if _LIBRARY.load() is None:
        return _count_in_numpy(values, group, groups, bits)
    table, bins, counts = _scratch(bits, groups)
    missing = np.zeros(groups, np.int64)
    stats = np.array([0.0, np.inf, -np.inf])
    shape = len(values), groups, bits, LOWEST, _greatest_bin(bits)
    made = table, missing, stats, bins, counts
    found = _LIBRARY["count_numbers"](values, group, *shape, *made)
    return Counted(bins[:found], counts[:found], missing, *stats.tolist())


def count_ids(
    ids: np.ndarray, group: np.ndarray, table: np.ndarray, cells: int, *, spread_from: int = 0
) -> None:
    """Adds counts of ids by group to a table, in place.

    Args:
        ids: (n,) int32.
        group: (n,) uint8, below G.
        table: (at least `cells`, G) int64.
        cells: how many of its rows are used. Ids from cells − 1 on share the last one.
        spread_from: if not 0, ids from here on are spread over the cells from here on instead.
    """
    if _LIBRARY.load() is not None:
        ids = np.ascontiguousarray(ids, np.int32)
        shape = len(ids), table.shape[1], cells, spread_from
        _LIBRARY["count_ids"](ids, group, *shape, table)
        return
    if spread_from:
        spread = spread_from + (ids - spread_from) % (cells - spread_from)
        cell = np.where(ids < spread_from, ids, spread)
    else:
        cell = np.minimum(ids, cells - 1)
    keys = cell.astype(np.int64) * table.shape[1] + group
    table += np.bincount(keys, minlength=table.size).reshape(table.shape)


def _count_in_numpy(
    values: np.ndarray, group: np.ndarray | None, groups: int, bits: int
) -> Counted:
    group = np.zeros(len(values), np.uint8) if group is None else group
    there = ~np.isnan(values)
    missing = np.bincount(group[~there], minlength=groups)
    values, group = values[there], group[there]
    bins = bins_of(values, bits)
    first = int(bins.min(initial=0))
    table = np.bincount((bins - first) * groups + group)
    table = np.pad(table, (0, -len(table) % groups)).reshape(-1, groups)
    found = np.flatnonzero(table.any(axis=1))
    least, greatest = values.min(initial=np.inf), values.max(initial=-np.inf)
    return Counted(
        found + first, table[found], missing, float(values.sum()), float(least), float(greatest)
    )


def _greatest_bin(bits: int) -> int:
    return (HIGHEST - LOWEST) << bits


@cache
def _scratch(bits: int, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A table of zeros, which every user leaves so, and room for the bins and their counts."""
    size = 2 * _greatest_bin(bits) + 1
    return (
        np.zeros((size, groups), np.uint32),
        np.empty(size, np.int64),
        np.empty((size, groups), np.int64),
    )
