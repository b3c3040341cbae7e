"""The parent: an earlier data set whose ids and transforms a new one keeps."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.config.parse import to_dict
from ctrdist.data.counts import vocabulary_file
from ctrdist.data.manifest import open_dataset
from ctrdist.errors import ConfigError, DataError
from ctrdist.features.columns import ColumnConfig, has_vocabulary
from ctrdist.native.strings import hash_strings
from ctrdist.schema import FIRST_VALUE_ID
from ctrdist.storage import Store
from preprocessing.config.settings import PreprocessConfig
from preprocessing.scan.shard_values import ColumnValues, ValuesIndex, write_values

_FREE = (
    "name",
    "input",
    "split",
    "min_count",
    "bad_rows",
    "shuffle",
    "row_group_size",
    "shard_bytes",
    "new_values",
    "format",
)
"""Settings in which a data set may differ from its parent."""
_ROWS = 2**20


@dataclass(frozen=True)
class Parent:
    """A parent, as the passes need it."""

    store: Store
    fingerprint: str
    fields: tuple[str, ...]
    """Fields with a vocabulary."""
    transforms: Mapping[str, Any]


def open_parent(config: PreprocessConfig) -> Parent | None:
    """Opens the parent, where the config names one.

    Raises:
        DataError: it is not a finished data set.
        ConfigError: its columns differ from those of the config.
    """
    if not config.parent:
        return None
    there = open_dataset(config.parent)
    old, new = _with_new_settings(there.manifest.config), config.for_manifest()
    differing = [k for k in new if k not in _FREE and old.get(k, new[k]) != new[k]]
    if differing:
        raise ConfigError(
            f"parent {config.parent}: it was made with other {', '.join(differing)}. Ids and "
            "transforms can only be kept where columns, joins and crosses are the same; use its "
            "data-set YAML, or preprocess without parent."
        )
    lacking = [n for n in config.numeric if n.transform != "raw"]
    if lacking and not there.manifest.transforms:
        raise ConfigError(
            f"parent {config.parent}: written by an older version, which did not keep the means "
            "of numbers. Preprocess it again."
        )
    fields = tuple(c.name for c in config.categorical if has_vocabulary(c)) + config.derived
    return Parent(
        Store(config.parent), there.manifest.fingerprint, fields, there.manifest.transforms
    )


def _with_new_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a manifest, with the defaults of column settings that an older version lacked."""
    defaults = to_dict(ColumnConfig(name=""))
    columns = [defaults | column for column in config.get("columns", [])]
    joins = [
        {**join, "columns": [defaults | column for column in join["columns"]]}
        for join in config.get("joins", [])
    ]
    return {**config, "columns": columns, "joins": joins}


def write_parent(store: Store, name: str, parent: Store, column: str) -> list[ValuesIndex]:
    """Copies a parent's vocabulary of a field to one or more files NAME.NUMBER, see write_values.

    Raises:
        DataError: there is no vocabulary, or it is damaged.
    """
    vocabulary = vocabulary_file(column)
    where = f"parent {parent.url}: {vocabulary}"
    try:
        file = pq.ParquetFile(parent.input(vocabulary))
    except FileNotFoundError as error:
        raise DataError(
            f"{where} does not exist. Give a finished data set whose column {column} has a "
            "vocabulary."
        ) from error
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{where} is no Parquet file ({error}). Give a finished data set."
        ) from error
    if not {"value", "id", "count"} <= set(file.schema_arrow.names):
        raise DataError(
            f"{where} has the columns {', '.join(file.schema_arrow.names)}; a vocabulary has "
            "value, id and count. Give a data set that preprocessing wrote."
        )
    written: list[ValuesIndex] = []
    first = FIRST_VALUE_ID
    nothing = pa.RecordBatch.from_pylist([], file.schema_arrow)
    for batch in itertools.chain(file.iter_batches(_ROWS), [nothing]):
        if written and not batch.num_rows:
            continue
        ids = batch.column("id").to_numpy()
        if not np.array_equal(ids, np.arange(first, first + len(ids))):
            raise DataError(
                f"{where} has ids that do not go from {FIRST_VALUE_ID} up by ones. "
                "Give a data set that preprocessing wrote."
            )
        values = batch.column("value")
        held = ColumnValues(values, hash_strings(values), batch.column("count").to_numpy())
        part = f"{name}.{len(written):05d}"
        written.append(write_values(store, part, {column: held}, first_id=first))
        first += len(ids)
    return written
