"""The files of a data set: manifest.json. It is written last: no manifest, no data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ctrdist.errors import ConfigError, DataError
from ctrdist.schema import Schema, check_version
from ctrdist.storage import Store

MANIFEST_VERSION = 1
MANIFEST_NAME = "manifest.json"
SCHEMA_NAME = "schema.json"
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One Parquet file of a split."""

    path: str
    """Relative to the data set's directory, with forward slashes."""
    row_groups: tuple[int, ...]
    """Rows of each row group, in file order, so that readers can plan without opening the file."""
    sha256: str
    """Hash of the file's bytes."""

    @property
    def rows(self) -> int:
        """Rows of the whole file."""
        return sum(self.row_groups)


@dataclass(frozen=True, kw_only=True)
class Split:
    """The files of train, valid or test. Row indices count through them in this order."""

    files: tuple[DataFile, ...]
    """The files, in order."""
    rows: int
    """Rows of all files."""
    positives: int
    """Rows with label 1."""
    negatives_kept: float = 1.0
    """Share of the log's rows with label 0 that was drawn."""
    weight: float | None = None
    """Sum of the rows' weights; None where they have none."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Further label → rows where it is 1."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of manifest.json. It holds no times and no paths, so equal data gives equal bytes."""

    schema_fingerprint: str
    """:attr:`ctrdist.schema.Schema.fingerprint` of schema.json."""
    splits: Mapping[str, Split]
    """By name: train, valid, test; a split without rows has no files."""
    vocabularies: Mapping[str, str] = field(default_factory=dict)
    """Categorical column → sha256 of its file in vocabulary/."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved preprocessing config."""
    transforms: Mapping[str, Any] = field(default_factory=dict)
    """Numeric column → fitted values: mean and deviation, range, edges of quantiles."""
    parent: str | None = None
    """Fingerprint of the data set whose ids this one continues."""

    @property
    def fingerprint(self) -> str:
        """Hash of schema and all rows; runs and checkpoints identify their data by it."""
        content = {
            name: [f.sha256 for f in split.files] for name, split in sorted(self.splits.items())
        }
        text = json.dumps([self.schema_fingerprint, content])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The text of manifest.json."""
        body = {"version": MANIFEST_VERSION, "fingerprint": self.fingerprint, **asdict(self)}
        for split in body["splits"].values():  # data sets without these keep their bytes
            for name, default in (("negatives_kept", 1.0), ("weight", None), ("labels", {})):
                if split[name] == default:
                    del split[name]
        return json.dumps(body, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Parses manifest.json; raises DataError if it is not valid or was changed."""
        try:
            raw = json.loads(text)
            version, fingerprint = raw.pop("version"), raw.pop("fingerprint")
            splits = {name: _split(split) for name, split in raw.pop("splits").items()}
            manifest = cls(splits=splits, **raw)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise DataError(
                f"{where}: not a ctrdist manifest ({error}). Run jobs/preprocess.py again."
            ) from error
        check_version(where, "manifest", version, MANIFEST_VERSION)
        if fingerprint != manifest.fingerprint:
            raise DataError(
                f"{where}: its content does not match its fingerprint; it was changed. "
                "Run jobs/preprocess.py again."
            )
        return manifest


def _split(raw: dict[str, Any]) -> Split:
    files = tuple(DataFile(**{**f, "row_groups": tuple(f["row_groups"])}) for f in raw.pop("files"))
    return Split(files=files, **raw)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A preprocessed data set as training sees it."""

    path: str
    """Its directory: local or s3://."""
    schema: Schema
    manifest: Manifest
    """Its splits have the positives of the chosen label."""
    label: str = ""
    """Name of the chosen label; empty: the only one, or the first."""

    @property
    def label_column(self) -> str:
        """The Parquet column of the chosen label."""
        further = self.label in self.schema.labels[1:]
        return self.label if further else self.schema.label

    @property
    def weighted(self) -> bool:
        """Tells whether rows have weights."""
        return self.schema.weight is not None

    @property
    def mean_weight(self) -> float:
        """Mean weight of the training rows; raises DataError if it is 0."""
        train = self.split("train")
        if not train.weight:
            raise DataError(
                f"{self.path}: all training rows have the weight 0. Correct the column with the "
                "role weight in the data-set YAML, and preprocess again."
            )
        return train.weight / train.rows

    def split(self, name: str) -> Split:
        """Returns a split; raises DataError if it does not exist or is empty."""
        split = self.manifest.splits.get(name)
        if split is None or split.rows == 0:
            filled = [f"{n} ({s.rows:,} rows)" for n, s in self.manifest.splits.items() if s.rows]
            raise DataError(
                f"{self.path}: split '{name}' has no rows; it has {', '.join(filled)}. "
                "Name one of these, or change `split` in the data-set YAML and preprocess again."
            )
        return split


def open_dataset(path: str, label: str = "") -> Dataset:
    """Opens the data set that jobs/preprocess.py wrote to a directory, local or s3://.

    Args:
        path: its directory.
        label: name of the label to train on or to evaluate; empty: the only one, or the first.

    Raises:
        ConfigError: it has no label of this name.
        DataError: there is no manifest (so no finished data set), or schema and manifest do not
            belong together.
    """
    store, texts = Store(path), {}
    for name in (MANIFEST_NAME, SCHEMA_NAME):
        try:
            texts[name] = store.get(name).decode()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{path}: no {name} there, so no finished data set. Give --data the directory that "
                "jobs/preprocess.py wrote, or run jobs/preprocess.py --output there first."
            ) from error
    schema = Schema.from_json(texts[SCHEMA_NAME], f"{path}/{SCHEMA_NAME}")
    manifest = Manifest.from_json(texts[MANIFEST_NAME], f"{path}/{MANIFEST_NAME}")
    if manifest.schema_fingerprint != schema.fingerprint:
        raise DataError(
            f"{path}: {SCHEMA_NAME} ({schema.fingerprint}) is not the one that {MANIFEST_NAME} "
            f"was written with ({manifest.schema_fingerprint}). Run jobs/preprocess.py again."
        )
    return with_label(Dataset(path=path, schema=schema, manifest=manifest), label)


def with_label(dataset: Dataset, label: str) -> Dataset:
    """The data set with another label chosen; raises ConfigError for one that it lacks."""
    schema, manifest = dataset.schema, dataset.manifest
    columns = manifest.config.get("columns", ())
    names = schema.labels or tuple(c["name"] for c in columns if c.get("role") == "label")
    if label and label not in names:
        raise ConfigError(
            f"--label {label}: {dataset.path} has {', '.join(names) or 'one label'}. Give one of "
            "these or none, or give the column the role label and preprocess again."
        )
    if label in schema.labels[1:]:
        splits = {n: replace(s, positives=s.labels[label]) for n, s in manifest.splits.items()}
        manifest = replace(manifest, splits=splits)
    return replace(dataset, label=label, manifest=manifest)
