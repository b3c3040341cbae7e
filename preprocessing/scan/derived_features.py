"""Derived fields: parts of the timestamp, and crosses of columns."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from ctrdist.features.encode import LocalRows
from ctrdist.features.hashing import cross_ids, hash_values
from ctrdist.features.transforms import TIME_PARTS
from ctrdist.native.strings import Dictionary, new_dictionary
from preprocessing.config.settings import PreprocessConfig

_MISSING = hash_values(pa.array([""]))
"""(1,) hash of a missing value, which counts as the empty text."""


class DerivedFeatures:
    """Adds the derived fields to the blocks of a shard."""

    def __init__(self, config: PreprocessConfig) -> None:
        self._time = config.derived
        self._crosses = config.crosses
        self._hashes: dict[str, np.ndarray] = {}
        self.dictionaries: dict[str, Dictionary] = {name: new_dictionary() for name in self._time}
        """Field made from the timestamp → its values, which have a vocabulary like any others."""

    def add(self, rows: LocalRows, dictionaries: Mapping[str, Dictionary]) -> None:
        """Adds the fields to a block; `dictionaries` has the values of each column."""
        for name in self._time:
            assert rows.timestamp is not None
            parts = TIME_PARTS[name.rpartition("_")[2]](rows.timestamp)
            rows.local_ids[name] = self.dictionaries[name].add_integers(parts)
        for cross in self._crosses:
            hashes = [
                self._hashes_of(name, dictionaries[name])[rows.local_ids[name]]
                for name in cross.columns
            ]
            rows.crosses[cross.name] = cross_ids(hashes, cross.num_buckets)

    def _hashes_of(self, name: str, dictionary: Dictionary) -> np.ndarray:
        """(V + 1,) uint64: the hash of each value of a column; the last is for a missing value."""
        known = self._hashes.get(name, np.zeros(1, np.uint64))
        if len(known) <= len(dictionary):
            # those that are new since the block before
            new = hash_values(dictionary.values().slice(len(known) - 1))
            known = np.concatenate([known[:-1], new, _MISSING])
            self._hashes[name] = known
        return known
