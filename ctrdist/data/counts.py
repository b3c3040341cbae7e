"""Training counts of all ids, read from the vocabularies of a data set."""

# V values of a vocabulary, Q levels

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.data.manifest import Dataset
from ctrdist.errors import DataError
from ctrdist.schema import COUNT_LEVEL_STEP, COUNT_LEVELS, FIRST_VALUE_ID, file_stem
from ctrdist.storage import Store

VOCABULARY = "vocabulary"
"""Folder of a data set; a file for each categorical field."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Training counts of all ids, in the form of ctrdist.models.dual_attention.frequency."""

    ends: list[list[int]]
    """By categorical field and level q: the first id whose ln(1 + count) is less than
    (q + 1) · COUNT_LEVEL_STEP."""
    mean: float
    """Mean of ln(1 + count) over all ids in the training rows that have a count."""
    std: float
    """Its standard deviation."""
    of_all: float
    """ln(1 + training rows)."""
    unknown: list[float]
    """By categorical field: training rows with a value that is not in the vocabulary, or none."""


def vocabulary_file(field: str) -> str:
    """Name of a field's vocabulary in a data set."""
    return f"{VOCABULARY}/{file_stem(field)}.parquet"


def read_counts(dataset: Dataset, *, strict: bool = True) -> Counts:
    """Reads the vocabularies, a batch of values at a time.

    The ids of a field without a vocabulary, which are hashes, are taken to be equally frequent.

    Args:
        dataset: the data set.
        strict: refuse a vocabulary that is not in the order of falling counts. Otherwise, as where
            the ids are a parent's, an id counts at least as much as any later one.

    Raises:
        DataError: a vocabulary is missing, or is not in the order of falling counts.
    """
    ends, unknown, moments = [], [], np.zeros(3)
    store, rows = Store(dataset.path), dataset.split("train").rows
    for field in dataset.schema.categorical:
        if dataset.manifest.config and field.name not in dataset.manifest.vocabularies:
            ends.append(_equal_counts(field.vocabulary_size, rows))
            unknown.append(1.0)
            continue
        name = vocabulary_file(field.name)
        at_least_Q, known, last = np.zeros(COUNT_LEVELS, dtype=np.int64), 0.0, math.inf
        for count_V in _counts(store, name) if strict else [_falling(store, name)]:
            if len(count_V) and (count_V[0] > last or (np.diff(count_V) > 0).any()):
                raise DataError(
                    f"{store}/{name}: counts do not fall with the id: the file was "
                    "changed, or has a parent's ids. Preprocess again, without a parent."
                )
            last = count_V[-1] if len(count_V) else last
            known += count_V.sum()
            log_V = np.log1p(count_V)
            moments += [count_V.sum(), (count_V * log_V).sum(), (count_V * log_V**2).sum()]
            level_V = np.minimum((log_V / COUNT_LEVEL_STEP).astype(np.int64), COUNT_LEVELS)
            # an id of level q counts for all levels up to q
            held = np.bincount(level_V, minlength=COUNT_LEVELS + 1)[1:]
            at_least_Q += held[::-1].cumsum()[::-1]
        ends.append((FIRST_VALUE_ID + at_least_Q).tolist())
        unknown.append(max(rows - known, 0.0))
    total, first, second = moments
    mean = first / max(total, 1)
    variance = max(second / max(total, 1) - mean**2, 0.0)
    return Counts(
        ends=ends,
        mean=mean,
        std=math.sqrt(variance),
        of_all=math.log1p(rows),
        unknown=unknown,
    )


def _falling(store: Store, name: str) -> np.ndarray:
    """(V,) float64 counts, each raised to the largest of a later id."""
    count_V = np.concatenate([*_counts(store, name), np.zeros(0)])
    return np.maximum.accumulate(count_V[::-1])[::-1]


def _equal_counts(ids: int, rows: int) -> list[int]:
    """The levels' ends of a field whose ids share the training rows evenly."""
    level = int(math.log1p(rows / max(ids - FIRST_VALUE_ID, 1)) / COUNT_LEVEL_STEP)
    return [ids if q < level else FIRST_VALUE_ID for q in range(COUNT_LEVELS)]


def _counts(store: Store, name: str) -> Iterator[np.ndarray]:
    """Yields (V,) float64 counts, in the order of ids."""
    try:
        with store.input(name) as source:
            for batch in pq.ParquetFile(source).iter_batches(columns=["count"]):
                yield batch.column(0).to_numpy().astype(np.float64)
    except (OSError, pa.ArrowException, IndexError) as error:
        raise DataError(
            f"{store}/{name}: training counts could not be read there ({error}), and model.wide, "
            "model.frequency and optim.tables.occurrence_l2 need them. Preprocess again, or set "
            "these to false, false and 0."
        ) from error
