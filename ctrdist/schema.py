"""The columns of a data set, schema.json: part of the contract of preprocessing and training.

The files that hold the rows are in manifest.json, see :mod:`ctrdist.data.manifest`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from ctrdist.errors import DataError

SCHEMA_VERSION = 1
LABEL = "label"
"""Column of the label, or of the first of several."""
PADDING_ID = 0
"""Row 0 of each embedding table, for no value; it stays zero."""
UNKNOWN_ID = 1
"""Row 1, for values below the frequency threshold or not in the training split."""
FIRST_VALUE_ID = 2
"""First id of a value; ids are in the order of falling counts in the training rows."""
COUNT_LEVELS = 256
"""Number of levels of ln(1 + count) in which the counts of a vocabulary are stored."""
COUNT_LEVEL_STEP = 0.125
"""Difference of two levels: counts up to e^32, each within 7 %."""
MOST_IDS = 2**31 - 1
"""Largest size of a vocabulary: ids are int32."""


@dataclass(frozen=True, kw_only=True)
class CategoricalField:
    """One categorical field, stored as an int32 column (a list of int32 where multi-valued)."""

    name: str
    """Name of the field and of its Parquet column."""
    vocabulary_size: int
    """Number of ids including padding and unknown: ids lie in [0, vocabulary_size)."""
    multi_valued: bool = False
    """A row holds a list of ids, which a model pools by their mean."""

    def __post_init__(self) -> None:
        if self.vocabulary_size > MOST_IDS:
            raise DataError(
                f"field {self.name}: {self.vocabulary_size:,} ids, and ids are int32: at most "
                f"{MOST_IDS:,}. Raise min_count or lower num_buckets in the data-set YAML."
            )


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Columns of a data set, in the order of a model's fields: numeric, then categorical."""

    name: str
    """Name of the data set."""
    categorical: tuple[CategoricalField, ...]
    """The C categorical fields."""
    numeric: tuple[str, ...] = ()
    """The K numeric fields, float32 columns of transformed values."""
    label: str = LABEL
    """A float32 column of 0 and 1."""
    user: str | None = None
    """An int64 column that identifies the user, for AUC by user; None if the log has none."""
    timestamp: str | None = None
    """An int64 column with the time of the event in seconds; None if the log has none."""
    weight: str | None = None
    """A float32 column with the weights of the rows; None if all count the same."""
    labels: tuple[str, ...] = ()
    """Names of the labels where there are several. The first is in the column `label`, the others
    in float32 columns of their names."""

    def __post_init__(self) -> None:
        names = [*self.numeric, *(field.name for field in self.categorical), self.label]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise DataError(
                f"schema {self.name}: column names must differ, repeated: {', '.join(repeated)}"
            )

    @property
    def num_fields(self) -> int:
        """F = K + C, the number of tokens per row."""
        return len(self.numeric) + len(self.categorical)

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of all F fields, numeric first."""
        return (*self.numeric, *(field.name for field in self.categorical))

    @property
    def fingerprint(self) -> str:
        """Hash of the whole schema."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Returns the text of schema.json."""
        body = {"version": SCHEMA_VERSION, **asdict(self)}
        for name in ("weight", "labels"):  # data sets without them keep their bytes
            if not body[name]:
                del body[name]
        return json.dumps(body, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Schema:
        """Parses schema.json; raises DataError if it is no schema, or has another version."""
        try:
            raw: dict[str, Any] = json.loads(text)
            version = raw.pop("version")
            fields = tuple(CategoricalField(**field) for field in raw.pop("categorical"))
            raw["numeric"] = tuple(raw.get("numeric", ()))
            raw["labels"] = tuple(raw.get("labels", ()))
            schema = cls(categorical=fields, **raw)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise DataError(
                f"{where}: not a ctrdist schema ({error}). Run jobs/preprocess.py again."
            ) from error
        check_version(where, "schema", version, SCHEMA_VERSION)
        return schema


def check_version(where: str, kind: str, found: int, read: int) -> None:
    """Raises a DataError where a file was written by another version."""
    if found != read:
        raise DataError(
            f"{where}: {kind} version {found}, this ctrdist reads version {read}. "
            "Run jobs/preprocess.py again with this version."
        )


def file_stem(field: str) -> str:
    """Returns the name of a field in a form that file names accept.

    Different fields have different forms, and a plain name is its own form.
    """
    return _escaped(field) if _NOT_IN_FILES.search(field) else field


def module_key(field: str) -> str:
    """Returns the name of a field in a form that modules of torch and TorchRec accept."""
    return _escaped(field) if _NOT_IN_MODULES.search(field) else field


_NOT_IN_FILES = re.compile(r"^[.%]|^$|[/\\*?\[\]\x00-\x1f\x7f]")
_NOT_IN_MODULES = re.compile(rf"{_NOT_IN_FILES.pattern}|[.@]")
"""A module's name has no dot, and TorchRec joins the names of a feature and its table with @."""


def _escaped(field: str) -> str:
    """Returns % and the name, in which all but letters, digits, _, - and space is escaped."""
    return "%" + "".join(
        c if c.isalnum() or c in "_- " else "".join(f"%{byte:02X}" for byte in c.encode())
        for c in field
    )
