"""Settings of preprocessing: a new data set needs a YAML file of these, and no code.

Free of torch, Ray and Arrow, so that `--help` is quick. preprocessing.config.checks checks them.
"""

from __future__ import annotations

import itertools
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ctrdist.config.parse import to_dict
from ctrdist.config.paths import IS_PATH
from ctrdist.features.columns import ColumnConfig, CrossConfig, FeatureColumns, NumericAs
from preprocessing.config.patterns import implied_options
from preprocessing.config.rows import SampleConfig


@dataclass(frozen=True, kw_only=True)
class InputFormat:
    """All that is known of an input format, but for the code that reads it."""

    module: str
    """Module of preprocessing.sources with the function `raw_blocks`."""
    is_text: bool = True
    """Rows are lines. Then a compressed file is one stream, which cannot be cut."""
    separator: str = ""
    """Default text between two columns; empty where the format needs none."""
    quote: str = ""
    """Default character around values that contain the separator."""
    expansion: int = 1
    """About how many bytes of text a byte of an uncompressed file stands for."""


INPUT_FORMATS: dict[str, InputFormat] = {
    "tsv": InputFormat(module="delimited", separator="\t"),
    "csv": InputFormat(module="delimited", separator=",", quote='"'),
    "jsonl": InputFormat(module="jsonl"),
    "parquet": InputFormat(module="parquet", is_text=False, expansion=3),
    "orc": InputFormat(module="orc", is_text=False, expansion=3),
}


@dataclass(frozen=True, kw_only=True)
class FormatConfig:
    """Layout of a raw file. A name that ends in .gz or .zst is decompressed."""

    type: Literal["tsv", "csv", "jsonl", "parquet", "orc"] = "tsv"
    """Text with one row per line (for jsonl, one JSON object), Parquet or ORC."""
    separator: str | None = None
    """Text between two columns, one character or more. null: a tab for tsv, a comma for csv."""
    header: bool = False
    """true: the first line names the columns; they are found by name, and the file may have more.
    false: `columns` names every column of the file in its order."""
    encoding: str = "utf-8"
    """One of Python's encodings that keep ASCII."""
    quote: str | None = None
    """Character around values that contain the separator; empty for none. null: " for csv, none for
    tsv."""
    escape: str = ""
    """Character that makes the next one a part of the value: a quote, a separator or itself; empty
    for none. A value that is it and N, as databases write a missing one, stays that text."""
    missing: list[str] = field(default_factory=lambda: [""])
    """Texts that stand for a missing value."""
    skip_blank: bool = False
    """true: blanks before and after a value are no part of it."""


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """A side table: a small table, held in memory, that adds columns to the rows with its keys."""

    file: str
    """Its name beside the first input, or a path or URL of its own."""
    key: str
    """A column of both tables; each of its values occurs once in the side table. The added values
    of a row whose key the side table lacks are missing."""
    columns: list[ColumnConfig]
    """The side table's columns with the key; numeric, categorical, multi_valued or ignore."""
    format: FormatConfig | None = None
    """Layout of its file. null: that of the log."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """The rules by which rows are assigned to training, validation and test."""

    by: Literal["position", "file", "hash", "stratified", "time"] = "position"
    """position: the first rows train, the last test. file: whole files, see valid and test. hash:
    by the values of key, so rows with equal ones stay together and no order matters. stratified: by
    a seeded draw within each label, so that all splits have the same share of clicks. time: by the
    timestamp, see times."""
    key: list[str] = field(default_factory=list)
    """For hash: the columns of the log whose values decide. Empty: all that become features, and
    the timestamp; never the label."""
    fractions: list[float] = field(default_factory=lambda: [0.8, 0.1, 0.1])
    """Shares of train, valid and test; their sum is 1. Not used with file, nor with times."""
    seed: int = 2024
    """Seed of hash, of stratified, and of the shuffle."""
    valid: list[str] = field(default_factory=list)
    """For file: patterns of the names of the files for validation, such as day_22.gz. Without
    patterns here and in test, there are three inputs in the order train, valid, test."""
    test: list[str] = field(default_factory=list)
    """For file: patterns of the names of the files for test. Files that match no pattern train."""
    times: list[int] = field(default_factory=list)
    """For time: the first second of valid and of test. Empty: the fractions apply to the rows in
    the order of time; rows of the same second stay together."""


@dataclass(frozen=True, kw_only=True)
class BadRowsConfig:
    """The treatment of rows that are malformed, or whose values are not of their columns' kinds."""

    policy: Literal["fail", "quarantine"] = "fail"
    """fail: the run ends and names the row. quarantine: the row is left out and written to
    quarantine/ with its place and the reason."""
    limit: float = 0.001
    """With quarantine, the run still ends if more than this share of all rows is bad."""


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(FeatureColumns):
    """Makes a data set for training from a raw log."""

    name: str = ""
    """Name of the data set."""
    input: list[str] = field(default_factory=list, metadata=IS_PATH)
    """Raw files in the order of the log, or folders or globs, which are read in the order of names;
    local or s3://."""
    output: str = field(default="", metadata=IS_PATH)
    """Directory to write: local or s3://. It must be empty, new, or the remains of a run that did
    not finish."""
    format: FormatConfig = field(default_factory=FormatConfig)
    """Layout of the raw files."""
    columns: list[ColumnConfig] = field(default_factory=list)
    """The raw columns. The fields of the data set are in their order. The name C1..C26 stands for
    26 columns. With a header, and in Parquet, C* stands for all columns of the first file whose
    names begin with C and that have no entry of their own."""
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Role → settings of its columns, unless they say otherwise: {categorical: {min_count: 10}}."""
    joins: list[JoinConfig] = field(default_factory=list)
    """Side tables, which add columns."""
    crosses: list[CrossConfig] = field(default_factory=list)
    """Fields made from several columns; they follow the other fields."""
    where: list[dict[str, Any]] = field(default_factory=list)
    """Conditions that a row must meet to be taken, such as {column: country, in: [DE, FR]},
    {column: bot, not_in: [1, null]}, where null is a missing value, or {column: age, min: 18,
    max: 99}. The column is one of the log or of a side table, and may have the role ignore."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """A draw among the rows with label 0."""
    bad_rows: BadRowsConfig = field(default_factory=BadRowsConfig)
    """The treatment of bad rows."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """The split into training, validation and test rows."""
    min_count: int = 1
    """Categorical values in fewer training rows become unknown."""
    numeric_as: NumericAs = "number"
    """The form of a numeric column x: a number, the categorical field x_bucket, or both. The
    bucket is floor(ln(x)²) for x > 2, otherwise x without its fraction; a missing value has a
    bucket of its own."""
    shuffle: bool = False
    """true: the training rows are shuffled over the whole data set, by split.seed, in bounded
    memory."""
    parent: str = field(default="", metadata=IS_PATH)
    """A finished data set, local or s3://, whose ids and fitted transforms are kept."""
    new_values: Literal["unknown", "append"] = "append"
    """With a parent, for values that its vocabularies lack. append: those in at least min_count
    training rows get ids after the parent's."""
    row_group_size: int = 65536
    """Rows of a Parquet row group, the unit in which the loader shuffles."""
    shard_bytes: int = 256 * 2**20
    """Larger uncompressed texts are read and written in parts of about this many bytes; smaller
    files are read together up to this size."""
    work: str = field(default="", metadata=IS_PATH)
    """Directory for intermediate files, nearly as large as the raw text: local or s3://, seen by
    all nodes. Empty: within the output."""
    workers: int = 0
    """Tasks that run at a time; 0: one per CPU. The output does not depend on it."""
    overwrite: bool = False
    """true: a finished data set at `output` may be replaced."""

    @staticmethod
    def implied(given: Mapping[str, Any]) -> dict[str, str]:
        """The options that replace patterns of columns and the defaults of roles."""
        return implied_options(given)

    @property
    def all_columns(self) -> tuple[ColumnConfig, ...]:
        """The columns that are read: those of the log, then those that side tables add."""
        return tuple(c for c in (*self.columns, *self.joined) if c.role != "ignore")

    @property
    def joined(self) -> tuple[ColumnConfig, ...]:
        """The columns that side tables add."""
        columns = [c for join in self.joins for c in join.columns if c.name != join.key]
        return tuple(c for c in columns if c.role != "ignore")

    @property
    def split_key(self) -> tuple[str, ...]:
        """The columns that decide a split by hash, in the order in which they are hashed."""
        if self.split.key:
            return tuple(self.split.key)
        joined_by = {join.key for join in self.joins}
        others = ("label", "weight", "ignore")
        own = (c for c in self.columns if c.role not in others or c.name in joined_by)
        return tuple(c.name for c in own)

    def for_manifest(self) -> dict[str, Any]:
        """The settings that determine the content, without directories, for the manifest."""
        values = to_dict(self)
        for name in ("output", "overwrite", "workers", "work", "parent", "defaults"):
            del values[name]
        values["input"] = [posixpath.basename(path.rstrip("/")) for path in values["input"]]
        # settings that are younger than data sets that must keep their bytes
        if not values["split"]["key"]:
            del values["split"]["key"]
        for name, default in {"where": [], "sample": to_dict(SampleConfig())}.items():
            if values[name] == default:
                del values[name]
        for join in values["joins"]:
            join["file"] = posixpath.basename(join["file"])
        return values


def join_paths(argv: Sequence[str]) -> list[str]:
    """Turns --input A B C into --input '["A", "B", "C"]', for the globs of a shell."""
    rest, out = list(argv), []
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name == "--input" and equals:
            rest.insert(0, value)
        out.append(name if name == "--input" else name + equals + value)
        if name == "--input" and rest and not rest[0].startswith("["):
            paths = list(itertools.takewhile(lambda text: not text.startswith("--"), rest))
            del rest[: len(paths)]
            out.append(json.dumps(paths))
    return out
