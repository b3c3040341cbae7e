"""Columns, and pairs of them, that determine the label, found in a sample of the training rows.

Where no combination of user and item has rows of both labels, its label can be remembered: the AUC
then measures how many combinations of a held-out split have been seen in training.
"""

# n rows of the sample

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ctrdist.data.manifest import Manifest
from ctrdist.schema import FIRST_VALUE_ID, Schema
from ctrdist.storage import Store
from preprocessing.report.warnings import warning

SAMPLE_ROWS, FIRST_ROWS = 50_000, 4096
"""Rows of the sample, and of the part of it that rules out most pairs."""
MOST_COLUMNS = 10
"""Columns with the most values that are looked at."""
LEAST_EXPECTED = 30
"""Combinations with both labels that chance alone would make, below which nothing is said."""
TOLERATED = 0.01
"""Share of these that may have both labels all the same, such as corrected rows."""
MOST_WARNINGS = 3


def label_warnings(store: Store, schema: Schema, manifest: Manifest) -> list[dict[str, Any]]:
    """Warnings of what determines the label in the first training rows of a data set."""
    ids, label = _sample(store, schema, manifest)
    found = []
    for names in determining(ids, label):
        shown = " and ".join(names)
        text = (
            f"{shown} {'determine' if len(names) > 1 else 'determines'} the label: among "
            f"{len(label):,} rows of train, rows with the same {shown} have the same label. "
            "A model can remember them. If rows of one such combination lie in several splits, "
            f"`split: {{by: hash, key: [{', '.join(names)}]}}` keeps them together."
        )
        found.append(warning("label_known", text, 9.5))
    return found[:MOST_WARNINGS]


def determining(ids: Mapping[str, np.ndarray], label: np.ndarray) -> Iterator[tuple[str, ...]]:
    """The columns that determine the label, and the pairs of others that do.

    Args:
        ids: column → (n,) int32; padding and unknown stand for no value.
        label: (n,) bool.
    """
    single = {name for name, found in ids.items() if _determines(_keys(found), label)}
    yield from ((name,) for name in ids if name in single)
    for one, two in combinations([name for name in ids if name not in single], 2):
        begin = _keys(ids[one][:FIRST_ROWS], ids[two][:FIRST_ROWS])
        if not _has_both_labels(begin, label) and _determines(_keys(ids[one], ids[two]), label):
            yield one, two


def _has_both_labels(keys: np.ndarray, label: np.ndarray) -> bool:
    """Tells whether so many combinations have both labels that no further rows matter."""
    mixed, expected = _mixed(keys, label)
    return mixed > 2 + TOLERATED * expected


def _determines(keys: np.ndarray, label: np.ndarray) -> bool:
    mixed, expected = _mixed(keys, label)
    return expected >= LEAST_EXPECTED and mixed <= TOLERATED * expected


def _mixed(keys: np.ndarray, label: np.ndarray) -> tuple[int, float]:
    """Combinations that have both labels, and how many would have if labels were drawn.

    `keys` are (n,) uint64, 0 for none; further labels are ignored.
    """
    label = label[: len(keys)][keys > 0]
    joined = np.sort(keys[keys > 0] << np.uint64(1) | label)
    keys = joined >> np.uint64(1)
    new = np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]
    mixed = int(np.count_nonzero(~new[1:] & (joined[1:] != joined[:-1])))
    rows = np.diff(np.append(np.flatnonzero(new), len(keys)))
    rate = float(label.mean()) if len(label) else 0.0
    return mixed, float((1 - rate**rows - (1 - rate) ** rows).sum())


def _keys(*ids: np.ndarray) -> np.ndarray:
    """(n,) uint64: a number for each combination of one or two ids, 0 where one has no value."""
    known = np.logical_and.reduce([one >= FIRST_VALUE_ID for one in ids])
    joined = ids[0].astype(np.uint64)
    for other in ids[1:]:
        joined = joined * np.uint64(int(other.max(initial=0)) + 1) + other.astype(np.uint64)
    return np.where(known, joined, np.uint64(0))


def _sample(
    store: Store, schema: Schema, manifest: Manifest
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Column → (n,) ids, and (n,) bool labels, of the first rows of the first training file."""
    fields = [field for field in schema.categorical if not field.multi_valued]
    fields = sorted(fields, key=lambda field: -field.vocabulary_size)[:MOST_COLUMNS]
    names = [field.name for field in schema.categorical if field in fields]
    file = manifest.splits["train"].files[0]
    with store.input(file.path) as source:
        batches = pq.ParquetFile(source).iter_batches(SAMPLE_ROWS, columns=[schema.label, *names])
        rows = next(batches)
    columns = {name: rows.column(name).to_numpy() for name in names}
    return columns, rows.column(schema.label).to_numpy() > 0.5
