"""Settings of raw columns, and the fields that columns become.

Free of torch, Ray and Arrow, so that `--help` is quick.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Role = Literal[
    "label",
    "weight",
    "numeric",
    "categorical",
    "multi_valued",
    "user",
    "timestamp",
    "ignore",
]
NumericAs = Literal["number", "bucket", "both"]
FEATURE_ROLES: tuple[Role, ...] = ("numeric", "categorical", "multi_valued", "user")
USER = "__user"
"""Name of the column with the 64-bit hashes of the users."""
WEIGHT = "__weight"
"""Name of the column with the weights of the rows."""
_ESCAPE = re.compile(r"\\(?:[\\tnr]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[0-7]{3})")


@dataclass(frozen=True, kw_only=True)
class ColumnConfig:
    """One column of the raw log."""

    name: str
    """Name of the column and of the field that it becomes."""
    role: Role = "categorical"
    """label: 0 or 1, see threshold and positive; of several, training chooses one, by default the
    first. weight: a number from 0, by which the row counts in loss and metrics. user: a categorical
    field, and a column of its hash for AUC grouped by user. timestamp: seconds, kept but no
    feature. multi_valued: a list of categories. ignore: not read."""
    source: Literal["file", "partition"] = "file"
    """partition: the values are those of NAME=VALUE in the paths of the files, as Hive and Spark
    write them (day=2024-01-01/part-0.parquet); files need no such column."""
    missing_texts: list[str] = field(default_factory=list)
    """Texts that stand for a missing value of this column, besides those of format.missing."""
    type: Literal["number", "integer"] = "number"
    """For a numeric column: the values that are well-formed."""
    transform: Literal["log_standardise", "standardise", "min_max", "raw"] = "log_standardise"
    """For a numeric column: sign(x)·ln(1 + |x|) and then (x − mean) / deviation, or only the
    latter, or (x − smallest) / (largest − smallest) clipped to [0, 1], or x itself. The parameters
    are fitted to the training rows that have a value; a missing value becomes 0."""
    numeric_as: NumericAs | None = None
    """For a numeric column: overrides the data set's numeric_as."""
    buckets: Literal["log_square", "quantile"] = "log_square"
    """For a numeric column that becomes a category: floor(ln(x)²) for x > 2, otherwise x without
    its fraction; or the index of the quantile range, of num_quantiles, that x falls into."""
    num_quantiles: int = 100
    """For `buckets: quantile`: the number of ranges, each with the same share of the training
    rows."""
    encoding: Literal["vocabulary", "hash"] = "vocabulary"
    """For a categorical column: ids by falling count in training, or by a hash into num_buckets."""
    min_count: int | None = None
    """For a vocabulary: rarer values become unknown. null: the data set's min_count."""
    max_size: int | None = None
    """For a vocabulary: only this many of its most frequent values are kept. null: all."""
    num_buckets: int | None = None
    """With `encoding: hash`: the number of ids. With a vocabulary: values outside it are hashed
    into this many further ids; null: they become unknown."""
    missing: Literal["token", "unknown"] = "token"
    """For a categorical column: a missing value is a value of its own, counted like any other, or
    it is unknown. A missing multi-valued column is an empty list."""
    separator: str = "|"
    """For a multi-valued column: the text between two values. Empty values are dropped."""
    text: Literal["separated", "json"] = "separated"
    """For a multi-valued column whose lists are written as text: values with a separator between
    them, or lists such as [16, 17], ["a", "b"] or Python's ['a', 'b']."""
    max_length: int | None = None
    """For a multi-valued column: a row's values beyond this many are dropped."""
    threshold: float | None = None
    """For the label: 1 where the value is at least this. null: the value is 0 or 1."""
    positive: list[str | bool | int | float] = field(default_factory=list)
    """For the label: the values that are 1, such as [click, true, 1]. Every other value is 0, a
    missing one too. Empty: the value is 0 or 1, or true or false."""
    unit: Literal["s", "ms", "us", "ns"] = "s"
    """For the timestamp: the unit of its numbers since 1970. It is stored in seconds."""
    format: str | None = None
    """For a timestamp that is text: iso8601, or a format of Python's strptime such as %y%m%d%H. A
    time without a zone is in UTC. null: numbers in `unit`, or the times of Parquet and ORC."""
    derive: list[Literal["hour", "weekday", "weekend"]] = field(default_factory=list)
    """For the timestamp: categorical fields made from it, in UTC, named after it: time_hour."""

    @property
    def item_separator(self) -> str:
        """The text between two values of a multi-valued column."""
        return without_escapes(self.separator)


@dataclass(frozen=True, kw_only=True)
class CrossConfig:
    """A categorical field for the combination of several columns' values."""

    name: str
    """Name of the field."""
    columns: list[str]
    """Two or more categorical or user columns."""
    num_buckets: int
    """Combinations are hashed into this many ids."""


def without_escapes(text: str) -> str:
    r"""The characters that a text from a YAML means: '\t' in single quotes has two, and is a tab.

    So are \x01, \u0001 and \001, and two backslashes are one; any other backslash stays.
    """
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: found[0].encode().decode("unicode_escape"), text)


def is_iso8601(form: str) -> bool:
    """Tells whether a timestamp's format is ISO 8601; otherwise it is one of strptime."""
    return form.lower() == "iso8601"


def bucket_name(column: str) -> str:
    """Name of the categorical field that a numeric column becomes."""
    return f"{column}_bucket"


def is_quantile(column: ColumnConfig) -> bool:
    """Tells whether a categorical field holds the quantile range of a number."""
    return column.role == "numeric" and column.buckets == "quantile"


def has_vocabulary(column: ColumnConfig) -> bool:
    """Tells whether a field's ids come from a vocabulary of its values."""
    return not is_quantile(column) and column.encoding == "vocabulary"


class FeatureColumns:
    """Base of settings that name their columns: the fields that these columns become."""

    crosses: Sequence[CrossConfig]
    numeric_as: NumericAs

    @property
    def all_columns(self) -> tuple[ColumnConfig, ...]:
        """The columns that are read, in the order of their fields."""
        raise NotImplementedError

    def of_role(self, *roles: Role) -> tuple[ColumnConfig, ...]:
        """The columns with these roles, in order."""
        return tuple(c for c in self.all_columns if c.role in roles)

    @property
    def label(self) -> ColumnConfig:
        """The column of the label, or of the first of several."""
        return self.of_role("label")[0]

    def numeric_of(self, column: ColumnConfig) -> NumericAs:
        """The form of a numeric column: number, bucket or both."""
        return column.numeric_as or self.numeric_as

    @property
    def numeric(self) -> tuple[ColumnConfig, ...]:
        """Columns that become numbers."""
        return tuple(c for c in self.of_role("numeric") if self.numeric_of(c) != "bucket")

    @property
    def categorical(self) -> tuple[ColumnConfig, ...]:
        """Columns of the categorical fields in order; a bucket of numbers has a name of its own."""
        fields = []
        for column in self.of_role(*FEATURE_ROLES):
            if column.role != "numeric":
                fields.append(column)
            elif self.numeric_of(column) != "number":
                fields.append(replace(column, name=bucket_name(column.name), missing="token"))
        return tuple(fields)

    @property
    def derived(self) -> tuple[str, ...]:
        """Names of the categorical fields made from the timestamp."""
        return tuple(f"{c.name}_{part}" for c in self.of_role("timestamp") for part in c.derive)

    @property
    def counted(self) -> tuple[ColumnConfig, ...]:
        """The categorical fields whose values are texts: all but quantile ranges."""
        return tuple(c for c in self.categorical if not is_quantile(c))

    @property
    def measured(self) -> tuple[ColumnConfig, ...]:
        """The numeric columns that become numbers or quantile ranges."""
        return tuple(
            c
            for c in self.of_role("numeric")
            if self.numeric_of(c) != "bucket" or c.buckets == "quantile"
        )
