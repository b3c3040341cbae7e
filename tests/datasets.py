"""Writes small preprocessed data sets for tests, with the product's own schema and manifest."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.data.manifest import DataFile, Dataset, Manifest, Split, open_dataset
from ctrdist.schema import FIRST_VALUE_ID, CategoricalField, Schema


def write_dataset(
    path: Path,
    rows: dict[str, int],
    *,
    numeric: int = 2,
    vocabulary: tuple[int, ...] = (30, 7, 50),
    multi_valued: bool = False,
    user: bool = False,
    weighted: bool = False,
    labels: tuple[str, ...] = (),
    negatives_kept: Mapping[str, float] | None = None,
    files: int = 2,
    row_group: int = 50,
    seed: int = 0,
) -> Dataset:
    """Random rows; their label depends on two categorical fields and the first numeric one.

    Args:
        path: directory to write.
        rows: split → number of rows.
        numeric: K.
        vocabulary: vocabulary size of each categorical field.
        multi_valued: whether a further field "tags" holds lists.
        user: whether there is a user column.
        weighted: whether rows have weights, whole numbers from 0 to 3.
        labels: names of the labels; those after the first are 1 for half of the rows.
        negatives_kept: split → share that the manifest states; no row is left out.
        files: files per split.
        row_group: rows per row group.
        seed: of the values.
    """
    rng = np.random.default_rng(seed)
    fields = [CategoricalField(name=f"C{i}", vocabulary_size=v) for i, v in enumerate(vocabulary)]
    if multi_valued:
        fields.insert(1, CategoricalField(name="tags", vocabulary_size=9, multi_valued=True))
    schema = Schema(
        name="tiny",
        numeric=tuple(f"I{i}" for i in range(numeric)),
        categorical=tuple(fields),
        user="__user" if user else None,
        weight="__weight" if weighted else None,
        labels=labels,
    )
    effects = [rng.normal(size=v) * 1.5 for v in vocabulary]
    splits = {}
    for split, count in rows.items():
        columns: dict[str, pa.Array] = {}
        logit = np.zeros(count)
        for i in range(numeric):
            value = rng.normal(size=count).astype(np.float32)
            logit += value if i == 0 else 0
            columns[f"I{i}"] = pa.array(value)
        for i, v in enumerate(vocabulary):
            ids = rng.integers(1, v, size=count).astype(np.int32)
            logit += effects[i][ids] if i < 2 else 0
            columns[f"C{i}"] = pa.array(ids)
        if multi_valued:
            lists = [rng.integers(1, 9, size=rng.integers(0, 4)).tolist() for _ in range(count)]
            columns["tags"] = pa.array(lists, type=pa.list_(pa.int32()))
        if user:
            columns["__user"] = pa.array(rng.integers(0, 20, size=count))
        if weighted:
            columns["__weight"] = pa.array(rng.integers(0, 4, size=count).astype(np.float32))
        for name in labels[1:]:
            columns[name] = pa.array(rng.integers(0, 2, size=count).astype(np.float32))
        columns["label"] = pa.array(
            (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(np.float32)
        )
        table = pa.table(columns)
        splits[split] = replace(
            _write_split(path, split, table, files, row_group),
            negatives_kept=(negatives_kept or {}).get(split, 1.0),
            weight=float(np.sum(table["__weight"].to_numpy())) if weighted else None,
            labels={name: int(np.sum(table[name].to_numpy())) for name in labels[1:]},
        )
    (path / "schema.json").write_text(schema.to_json())
    manifest = Manifest(schema_fingerprint=schema.fingerprint, splits=splits)
    (path / "manifest.json").write_text(manifest.to_json())
    return open_dataset(str(path))


def _write_split(path: Path, split: str, table: pa.Table, files: int, row_group: int) -> Split:
    (path / split).mkdir(parents=True, exist_ok=True)
    bounds = [table.num_rows * i // files for i in range(files + 1)]
    written = []
    for index, (begin, end) in enumerate(pairwise(bounds)):
        name = f"{split}/part-{index:05d}.parquet"
        pq.write_table(table.slice(begin, end - begin), path / name, row_group_size=row_group)
        metadata = pq.read_metadata(path / name)
        groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        sha = hashlib.sha256((path / name).read_bytes()).hexdigest()
        written.append(DataFile(path=name, row_groups=groups, sha256=sha))
    positives = int(np.sum(table.column("label").to_numpy()))
    return Split(files=tuple(written), rows=table.num_rows, positives=positives)


def write_counts(dataset: Dataset) -> None:
    """Adds vocabularies with made-up counts: half of the rows have id 2, a third id 3."""
    folder = Path(dataset.path) / "vocabulary"
    folder.mkdir()
    rows = dataset.split("train").rows
    for field in dataset.schema.categorical:
        ids = np.arange(FIRST_VALUE_ID, field.vocabulary_size, dtype=np.int32)
        counts = rows // ids.astype(np.int64)
        table = pa.table({"value": [f"v{i}" for i in ids], "id": ids, "count": counts})
        pq.write_table(table, folder / f"{field.name}.parquet")
