"""Fields that are made of others: hour and weekday of the timestamp, crosses of columns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ctrdist.schema import FIRST_VALUE_ID
from preprocessing.config.settings import PreprocessConfig
from preprocessing.scan.dictionary import Dictionary, PlainDictionary, new_dictionary
from preprocessing.scan.fields import hashes
from preprocessing.scan.scanned import Scanned

_DAY = 86_400
_THURSDAY = 3  # 1 January 1970, of the days from Monday on


class Derived:
    """Adds the derived fields of a shard's rows, block by block."""

    def __init__(self, config: PreprocessConfig) -> None:
        self._time = config.derived
        self._crosses = config.crosses
        self._missing = {c.name: c.missing for c in config.categorical}
        self._hashes: dict[str, np.ndarray] = {}
        self.dictionaries: dict[str, Dictionary | PlainDictionary] = {
            name: new_dictionary() for name in self._time
        }
        """Of the fields made of the timestamp: each of their values is counted like any other."""

    def add(self, rows: Scanned, dictionaries: Mapping[str, Dictionary | PlainDictionary]) -> None:
        """Adds the fields to a block; `dictionaries` are those of its columns."""
        for name in self._time:
            assert rows.timestamp is not None
            parts = time_parts(rows.timestamp, name.rpartition("_")[2])
            rows.codes[name] = self.dictionaries[name].add_integers(parts)
        for cross in self._crosses:
            state = np.full(len(rows.label), 0xCBF29CE484222325, np.uint64)
            for name in cross.columns:
                table = self._values(name, dictionaries[name])
                state = (state ^ table[rows.codes[name]]) * np.uint64(0x100000001B3)
            state ^= state >> np.uint64(32)
            ids = state % np.uint64(cross.num_buckets)
            rows.crosses[cross.name] = ids.astype(np.int32) + np.int32(FIRST_VALUE_ID)

    def _values(self, name: str, dictionary: Dictionary | PlainDictionary) -> np.ndarray:
        """(V + 1,) hash of each of a column's values; the last is that of a missing one."""
        known = self._hashes.get(name, np.zeros(1, np.uint64))
        if len(known) <= len(dictionary):
            # only what is new since the block before
            new = hashes(dictionary.values().slice(len(known) - 1))
            known = np.concatenate([known[:-1], new, hashes_of_nothing()])
            self._hashes[name] = known
        return known


def time_parts(seconds: np.ndarray, what: str) -> np.ndarray:
    """(n,) int64: hour 0–23, weekday from Monday 0 to 6, or weekend 0 or 1; in UTC.

    Args:
        seconds: (n,) int64 since 1970.
        what: hour, weekday or weekend.
    """
    if what == "hour":
        return seconds % _DAY // 3600
    weekday = (seconds // _DAY + _THURSDAY) % 7
    return weekday if what == "weekday" else (weekday >= 5).astype(np.int64)


def hashes_of_nothing() -> np.ndarray:
    """(1,) uint64: a missing value counts as the empty text."""
    import pyarrow as pa

    return hashes(pa.array([""], pa.string()))
