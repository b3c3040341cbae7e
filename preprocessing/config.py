"""Settings of preprocessing: a YAML file of these is all that a new data set needs.

Free of torch, Ray and Arrow, so that `--help` is quick.
"""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ctrdist.config.parse import to_dict
from ctrdist.errors import ConfigError

Role = Literal["label", "numeric", "categorical", "multi_valued", "user", "timestamp", "ignore"]
JOINED_ROLES = ("numeric", "categorical", "multi_valued", "ignore")
LABEL = "label"
"""Name of the label in the data set that is written."""
USER = "__user"
"""Name of the column with the users' 64-bit hashes."""


@dataclass(frozen=True, kw_only=True)
class FormatConfig:
    """How a raw file is laid out. A name that ends in .gz or .zst is decompressed."""

    type: Literal["tsv", "csv", "parquet"] = "tsv"
    """Text, one row per line, or Parquet."""
    separator: str | None = None
    """Between two columns of a text, one character or more. null: a tab for tsv, a comma for
    csv."""
    header: bool = False
    """Whether the first line names the columns. Then they are found by name, and the file may have
    further ones; without a header, `columns` names every column of the file in its order."""
    encoding: str = "utf-8"
    """Any encoding of Python's that keeps ASCII."""
    quote: str | None = None
    """Character around values that contain the separator. null: " for csv, none for tsv. Empty:
    none."""
    missing: list[str] = field(default_factory=lambda: [""])
    """Texts that stand for a missing value."""


@dataclass(frozen=True, kw_only=True)
class ColumnConfig:
    """One column of the raw log."""

    name: str
    """Its name, also that of the field."""
    role: Role = "categorical"
    """label: 0 or 1, see threshold. user: a categorical field, and a column of its hash for AUC
    grouped by user. timestamp: seconds, kept but no feature. multi_valued: a list of categories.
    ignore: not read."""
    type: Literal["number", "integer"] = "number"
    """Of a numeric column: what counts as a well-formed value."""
    transform: Literal["log_standardise", "standardise", "raw"] = "log_standardise"
    """Of a numeric column: sign(x)·ln(1 + |x|) and then (x − mean) / deviation, or only the latter,
    or x itself. Mean and deviation are those of the training rows that have a value; a missing
    value becomes 0."""
    min_count: int | None = None
    """Of a categorical column: rarer values become unknown. null: the data set's min_count."""
    missing: Literal["token", "unknown"] = "token"
    """Of a categorical column: whether a missing value is a value of its own, counted like any
    other, or unknown. A missing multi-valued column is an empty list."""
    separator: str = "|"
    """Of a multi-valued column: between two values; empty values are dropped."""
    max_length: int | None = None
    """Of a multi-valued column: values of a row beyond so many are dropped."""
    threshold: float | None = None
    """Of the label: 1 where the value is at least this. null: the value is 0 or 1."""


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """A small table, held in memory, whose columns are added to each row that has its key."""

    file: str
    """Its name beside the first input, or a path or URL of its own."""
    key: str
    """The column that both have; in the table, each value occurs once. A row whose key is not there
    misses the values."""
    columns: list[ColumnConfig]
    """The table's columns, the key among them; numeric, categorical, multi_valued or ignore."""
    format: FormatConfig | None = None
    """null: that of the log."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Which rows are for training, validation and test."""

    by: Literal["position", "file", "hash"] = "position"
    """position: the first rows train, the last test. file: three inputs, in the order train, valid,
    test. hash: by the content of the row, so equal rows stay together and no order matters."""
    fractions: list[float] = field(default_factory=lambda: [0.8, 0.1, 0.1])
    """Of train, valid and test; their sum is 1. Not used with file."""
    seed: int = 2024
    """Of the hash."""


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """From a raw log to a data set that training reads."""

    name: str = ""
    """Name of the data set."""
    input: list[str] = field(default_factory=list)
    """Raw files in log order, or folders or globs of them (read in the order of their names):
    local, s3://…"""
    output: str = ""
    """Directory to write: local or s3://. It must be empty, new, or the remains of a run that did
    not finish."""
    format: FormatConfig = field(default_factory=FormatConfig)
    """How a raw file is laid out."""
    columns: list[ColumnConfig] = field(default_factory=list)
    """The raw columns. The order of fields in the data set is theirs."""
    joins: list[JoinConfig] = field(default_factory=list)
    """Tables that add columns."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Which rows are for training, validation and test."""
    min_count: int = 1
    """Categorical values that fewer training rows have become unknown."""
    numeric_as: Literal["number", "bucket", "both"] = "number"
    """Whether a numeric column x becomes a number, or the categorical field x_bucket, or both. The
    bucket is floor(ln(x)²) for x > 2, otherwise x without its fraction; missing is a bucket of its
    own."""
    row_group_size: int = 65536
    """Rows of a Parquet row group, from which the loader shuffles."""
    shard_bytes: int = 256 * 2**20
    """An uncompressed text that is larger is read, and written, in parts of so many bytes."""
    workers: int = 0
    """Shards that are read at a time; 0: one per CPU. The output does not depend on it."""
    overwrite: bool = False
    """Whether a finished data set at `output` may be replaced."""

    def __post_init__(self) -> None:
        self._check_joins()
        self._check_columns()
        self._check_split()
        for name in ("min_count", "row_group_size", "shard_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.workers < 0:
            raise ConfigError(
                f"workers is {self.workers}; give 0 for one per CPU, or a positive number."
            )

    @property
    def all_columns(self) -> tuple[ColumnConfig, ...]:
        """The columns that are read: those of the log, then those of each join without its key."""
        joined = [c for join in self.joins for c in join.columns if c.name != join.key]
        return tuple(c for c in [*self.columns, *joined] if c.role != "ignore")

    def of_role(self, *roles: Role) -> tuple[ColumnConfig, ...]:
        """The columns of these roles, in order."""
        return tuple(c for c in self.all_columns if c.role in roles)

    @property
    def label(self) -> ColumnConfig:
        """The label's column."""
        return self.of_role("label")[0]

    @property
    def categorical(self) -> tuple[ColumnConfig, ...]:
        """Columns of the categorical fields in order; a bucket of numbers has a name of its own."""
        fields = []
        for column in self.of_role("numeric", "categorical", "multi_valued", "user"):
            if column.role != "numeric":
                fields.append(column)
            elif self.numeric_as != "number":
                fields.append(replace(column, name=f"{column.name}_bucket", missing="token"))
        return tuple(fields)

    @property
    def numeric(self) -> tuple[ColumnConfig, ...]:
        """Columns that become numbers."""
        return () if self.numeric_as == "bucket" else self.of_role("numeric")

    def for_manifest(self) -> dict[str, Any]:
        """What determines the content, without places: equal data gives equal bytes anywhere."""
        values = to_dict(self)
        for name in ("output", "overwrite", "workers"):
            del values[name]
        values["input"] = [posixpath.basename(path.rstrip("/")) for path in values["input"]]
        for join in values["joins"]:
            join["file"] = posixpath.basename(join["file"])
        return values

    def _check_columns(self) -> None:
        if not self.columns:
            raise ConfigError(
                "no columns: give --config a data-set YAML, such as jobs/configs/data/criteo.yaml."
            )
        for kind in ("label", "user", "timestamp"):
            given = [c.name for c in self.columns if c.role == kind]
            if len(given) > 1 or (kind == "label" and not given):
                raise ConfigError(
                    f"columns: {len(given)} with role {kind} ({', '.join(given) or 'none'}); "
                    f"a data set has {'exactly' if kind == 'label' else 'at most'} one."
                )
        if not any(
            c.role in ("numeric", "categorical", "multi_valued", "user") for c in self.all_columns
        ):
            raise ConfigError(
                "columns: no feature; one at least must be "
                "numeric, categorical, multi_valued or user."
            )
        joined = [
            c.name
            for join in self.joins
            for c in join.columns
            if c.name != join.key and c.role != "ignore"
        ]
        names = Counter([c.name for c in self.columns] + joined)
        if self.numeric_as != "number":
            names.update(f"{c.name}_bucket" for c in self.of_role("numeric"))
        repeated = [name for name, count in names.items() if count > 1]
        if repeated:
            raise ConfigError(
                f"columns: each name may occur once, repeated: {', '.join(repeated)}."
            )
        written = [c.name for c in (*self.numeric, *self.categorical, *self.of_role("timestamp"))]
        reserved = [name for name in (LABEL, USER) if name in written]
        if reserved:
            raise ConfigError(
                f"columns: a field may not be called {reserved[0]}: "
                "the output has a column of that name."
            )

    def _check_joins(self) -> None:
        for join in self.joins:
            if join.key not in [c.name for c in self.columns] or join.key not in [
                c.name for c in join.columns
            ]:
                raise ConfigError(
                    f"joins: the key {join.key} must be a column of the log and of {join.file}."
                )
            wrong = [c for c in join.columns if c.role not in JOINED_ROLES and c.name != join.key]
            if wrong:
                raise ConfigError(
                    f"joins: column {wrong[0].name} of {join.file} has role {wrong[0].role}; "
                    f"a joined column is one of {', '.join(JOINED_ROLES)}."
                )

    def _check_split(self) -> None:
        fractions = self.split.fractions
        if (
            len(fractions) != 3
            or min(fractions) < 0
            or abs(sum(fractions) - 1) > 1e-6
            or fractions[0] == 0
        ):
            raise ConfigError(
                f"split.fractions is {fractions}; give three parts, of train, valid and test, "
                "none negative, train above 0, with the sum 1."
            )


def join_paths(argv: Sequence[str]) -> list[str]:
    """--input A B C → --input '["A", "B", "C"]', so that a shell's globs can be given."""
    out: list[str] = []
    rest = list(argv)
    while rest:
        out.append(rest.pop(0))
        if out[-1] != "--input" or not rest or rest[0].startswith("["):
            continue
        paths = []
        while rest and not rest[0].startswith("--"):
            paths.append(rest.pop(0))
        out.append(json.dumps(paths))
    return [_as_list(text) for text in out]


def _as_list(text: str) -> str:
    name, equals, value = text.partition("=")
    return (
        f"--input={json.dumps([value])}"
        if name == "--input" and equals and not value.startswith("[")
        else text
    )
