"""Fitted features, features.json: with the vocabularies, they suffice to encode raw rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ctrdist.errors import DataError
from ctrdist.features.columns import (
    USER,
    WEIGHT,
    ColumnConfig,
    CrossConfig,
    FeatureColumns,
    NumericAs,
    is_quantile,
)
from ctrdist.features.hashing import HASH_KEY
from ctrdist.schema import FIRST_VALUE_ID, LABEL, CategoricalField, Schema

FEATURES_NAME = "features.json"
FEATURES_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FittedFeatures(FeatureColumns):
    """Column settings with what was fitted to the training rows."""

    columns: tuple[ColumnConfig, ...]
    """The columns that are read; those of side tables last."""
    crosses: tuple[CrossConfig, ...] = ()
    numeric_as: NumericAs = "number"
    """For numeric columns that do not say it themselves."""
    missing: tuple[str, ...] = ("",)
    """Texts that stand for a missing value."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Field with a vocabulary → values with an id of their own."""
    transforms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Numeric column → its fitted parameters, see :data:`ctrdist.features.transforms.Fitted`."""

    @property
    def all_columns(self) -> tuple[ColumnConfig, ...]:
        """The columns that are read."""
        return self.columns

    def schema(self, name: str) -> Schema:
        """The schema of the data set of that name."""
        sizes = [(c.name, self._ids_of(c), c.role == "multi_valued") for c in self.categorical]
        sizes += [(name, self.sizes[name], False) for name in self.derived]
        sizes += [(c.name, c.num_buckets, False) for c in self.crosses]
        timestamp = self.of_role("timestamp")
        labels = tuple(column.name for column in self.of_role("label"))
        return Schema(
            name=name or "unnamed",
            label=LABEL,
            numeric=tuple(c.name for c in self.numeric),
            categorical=tuple(
                CategoricalField(name=n, vocabulary_size=FIRST_VALUE_ID + ids, multi_valued=many)
                for n, ids, many in sizes
            ),
            user=USER if self.of_role("user") else None,
            timestamp=timestamp[0].name if timestamp else None,
            weight=WEIGHT if self.of_role("weight") else None,
            labels=labels if len(labels) > 1 else (),
        )

    def to_json(self) -> str:
        """The text of features.json."""
        body = {"version": FEATURES_VERSION, "hash_key": HASH_KEY, **asdict(self)}
        return json.dumps(body, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> FittedFeatures:
        """Reads the text of features.json; `where` is its path, for messages.

        Raises:
            DataError: not fitted features, or of another version.
        """
        try:
            raw = json.loads(text)
            version, key = raw.pop("version"), raw.pop("hash_key")
            raw["columns"] = tuple(ColumnConfig(**column) for column in raw["columns"])
            raw["crosses"] = tuple(CrossConfig(**cross) for cross in raw["crosses"])
            fitted = cls(**{**raw, "missing": tuple(raw["missing"])})
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise DataError(
                f"{where}: not ctrdist features ({error}). Run jobs/preprocess.py again."
            ) from error
        if (version, key) != (FEATURES_VERSION, HASH_KEY):
            raise DataError(
                f"{where}: features version {version} with hash key {key}, this ctrdist reads "
                f"version {FEATURES_VERSION} with {HASH_KEY}. Run jobs/preprocess.py again."
            )
        return fitted

    def _ids_of(self, column: ColumnConfig) -> int:
        """Number of a field's ids, without padding and unknown."""
        if is_quantile(column):
            numeric = column.name.removesuffix("_bucket")
            return len(self.transforms[numeric]["edges"]) + 2
        if column.encoding == "hash":
            assert column.num_buckets is not None
            return column.num_buckets
        return self.sizes[column.name] + (column.num_buckets or 0)
