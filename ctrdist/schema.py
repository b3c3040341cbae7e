"""What a preprocessed data set holds: the contract between preprocessing and training.

This is its half in schema.json; the other, which files hold the rows, is
:mod:`ctrdist.data.manifest`. Nothing else passes between the two.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from ctrdist.errors import DataError

SCHEMA_VERSION = 1
PADDING_ID = 0
"""Row 0 of each embedding table: stays zero, stands for no value."""
UNKNOWN_ID = 1
"""Row 1: a value below the frequency threshold, or not seen in the training split."""
FIRST_VALUE_ID = 2
"""Ids from here go by falling count in the training rows."""
COUNT_LEVELS = 256
"""Into how many levels ln(1 + count) is divided where counts of a vocabulary are kept."""
COUNT_LEVEL_STEP = 0.125
"""Difference between two levels: counts up to e^32, each within 7 %."""


@dataclass(frozen=True, kw_only=True)
class CategoricalField:
    """One categorical field, stored as an int32 column (a list of int32 where multi-valued)."""

    name: str
    """Name of the field and of its Parquet column."""
    vocabulary_size: int
    """Number of ids, padding and unknown included: ids lie in [0, vocabulary_size)."""
    multi_valued: bool = False
    """Whether a row holds a list of ids, pooled by their mean."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Columns of a data set, in the order in which models see them: numeric, then categorical."""

    name: str
    """Name of the data set."""
    categorical: tuple[CategoricalField, ...]
    """The categorical fields, C of them."""
    numeric: tuple[str, ...] = ()
    """The float32 columns, K of them; already transformed."""
    label: str = "label"
    """The float32 column that holds 0 or 1."""
    user: str | None = None
    """An int64 column that identifies the user, for AUC by user; None where the log has none."""
    timestamp: str | None = None
    """An int64 column with the event's time in seconds; None where the log has none."""

    def __post_init__(self) -> None:
        names = [*self.numeric, *(field.name for field in self.categorical), self.label]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise DataError(
                f"schema {self.name}: column names must differ, repeated: {', '.join(repeated)}"
            )

    @property
    def num_fields(self) -> int:
        """F = K + C, the number of tokens that a model sees per row."""
        return len(self.numeric) + len(self.categorical)

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of all F fields, numeric first."""
        return (*self.numeric, *(field.name for field in self.categorical))

    @property
    def fingerprint(self) -> str:
        """Hash of the whole schema; equal schemas have equal fingerprints."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The text of schema.json."""
        return (
            json.dumps({"version": SCHEMA_VERSION, **asdict(self)}, indent=2, sort_keys=True) + "\n"
        )

    @classmethod
    def from_json(cls, text: str, where: str) -> Schema:
        """Reads schema.json.

        Args:
            text: its content.
            where: its path, for the error message.

        Raises:
            DataError: not a schema, or of another version.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            version = raw.pop("version")
            fields = tuple(CategoricalField(**field) for field in raw.pop("categorical"))
            raw["numeric"] = tuple(raw.get("numeric", ()))
            schema = cls(categorical=fields, **raw)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise DataError(
                f"{where}: not a ctrdist schema ({error}). Run jobs/preprocess.py again."
            ) from error
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{where}: schema version {version}, this ctrdist reads version {SCHEMA_VERSION}. "
                "Run jobs/preprocess.py again with this version."
            )
        return schema


def file_stem(field: str) -> str:
    """The name of a field as a part of a file's name.

    Any text has one, no two texts have the same, and a plain name is its own.
    """
    return _escaped(field) if _NOT_IN_FILES.search(field) else field


def module_key(field: str) -> str:
    """The name of a field as torch's modules and TorchRec's features take it, as file_stem."""
    return _escaped(field) if _NOT_IN_MODULES.search(field) else field


_NOT_IN_FILES = re.compile(r"^[.%]|^$|[/\\*?\[\]\x00-\x1f\x7f]")
_NOT_IN_MODULES = re.compile(rf"{_NOT_IN_FILES.pattern}|[.@]")
"""A module's name has no dot, and TorchRec joins the names of a feature and its table by @."""


def _escaped(field: str) -> str:
    """Begins with %, which no plain name does; letters, digits, _, - and space stay."""
    return "%" + "".join(
        c if c.isalnum() or c in "_- " else "".join(f"%{byte:02X}" for byte in c.encode())
        for c in field
    )
