"""Settings of preprocessing: a YAML file of these is all that a new data set needs.

Free of torch, Ray and Arrow, so that `--help` is quick.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ctrdist.config.parse import to_dict
from ctrdist.features.columns import ColumnConfig, CrossConfig, FeatureColumns, NumericAs


@dataclass(frozen=True, kw_only=True)
class FormatConfig:
    """How a raw file is laid out. A name that ends in .gz or .zst is decompressed."""

    type: Literal["tsv", "csv", "jsonl", "parquet"] = "tsv"
    """Text, one row per line (for jsonl, one JSON object), or Parquet."""
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

    by: Literal["position", "file", "hash", "stratified", "time"] = "position"
    """position: the first rows train, the last test. file: whole files, see valid and test. hash:
    by the content of the row, so equal rows stay together and no order matters. stratified: by a
    seeded draw within each label, so that all splits have the same share of clicks. time: by the
    timestamp, see times."""
    fractions: list[float] = field(default_factory=lambda: [0.8, 0.1, 0.1])
    """Of train, valid and test; their sum is 1. Not used with file, nor where times are given."""
    seed: int = 2024
    """Of hash and stratified."""
    valid: list[str] = field(default_factory=list)
    """For file: patterns of the names of the files for validation, such as day_22.gz. Neither these
    nor those for test given: there are three inputs, in the order train, valid, test."""
    test: list[str] = field(default_factory=list)
    """For file: patterns of the names of the files for test; files that match none train."""
    times: list[int] = field(default_factory=list)
    """For time: the first second of valid and of test. Empty: the fractions say how many of the
    rows, in the order of time, train; rows of the same second stay together."""


@dataclass(frozen=True, kw_only=True)
class BadRowsConfig:
    """What becomes of a row that is not as the columns say."""

    policy: Literal["fail", "quarantine"] = "fail"
    """fail: the run ends and names the row. quarantine: the row is left out and written to
    quarantine/ with its place and the reason."""
    limit: float = 0.001
    """The run ends all the same where more than this share of all rows is bad."""


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(FeatureColumns):
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
    crosses: list[CrossConfig] = field(default_factory=list)
    """Fields made of several columns; they stand after the others."""
    bad_rows: BadRowsConfig = field(default_factory=BadRowsConfig)
    """What becomes of a row that is not as the columns say."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Which rows are for training, validation and test."""
    min_count: int = 1
    """Categorical values that fewer training rows have become unknown."""
    numeric_as: NumericAs = "number"
    """Whether a numeric column x becomes a number, or the categorical field x_bucket, or both. The
    bucket is floor(ln(x)²) for x > 2, otherwise x without its fraction; missing is a bucket of its
    own."""
    shuffle: bool = False
    """Whether the training rows are shuffled over the whole data set, by split.seed, in bounded
    memory."""
    parent: str = ""
    """A finished data set whose ids are to be kept: local or s3://. Its numbers' means and
    deviations are kept too."""
    new_values: Literal["unknown", "append"] = "append"
    """With a parent: what becomes of values that its vocabularies lack. append: those of at least
    min_count training rows get ids after the parent's."""
    row_group_size: int = 65536
    """Rows of a Parquet row group, from which the loader shuffles."""
    shard_bytes: int = 256 * 2**20
    """An uncompressed text that is larger is read, and written, in parts of about so many bytes;
    smaller files are read together up to this."""
    work: str = ""
    """Directory for what passes between the passes, nearly the size of the raw text: local or
    s3://, seen by all nodes. Empty: within the output."""
    workers: int = 0
    """Shards that are read at a time; 0: one per CPU. The output does not depend on it."""
    overwrite: bool = False
    """Whether a finished data set at `output` may be replaced."""

    def __post_init__(self) -> None:
        from preprocessing.config.checks import check  # here: it needs this module

        check(self)

    @property
    def all_columns(self) -> tuple[ColumnConfig, ...]:
        """The columns that are read: those of the log, then those of each join without its key."""
        return tuple(c for c in (*self.columns, *self.joined) if c.role != "ignore")

    @property
    def joined(self) -> tuple[ColumnConfig, ...]:
        """The columns that side tables add."""
        columns = [c for join in self.joins for c in join.columns if c.name != join.key]
        return tuple(c for c in columns if c.role != "ignore")

    def for_manifest(self) -> dict[str, Any]:
        """What determines the content, without places: equal data gives equal bytes anywhere."""
        values = to_dict(self)
        for name in ("output", "overwrite", "workers", "work", "parent"):
            del values[name]
        values["input"] = [posixpath.basename(path.rstrip("/")) for path in values["input"]]
        for join in values["joins"]:
            join["file"] = posixpath.basename(join["file"])
        return values


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
