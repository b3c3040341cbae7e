"""Reads the sample of files that store columns with types: Parquet and ORC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc

from ctrdist.features.hashing import one_array
from preprocessing.describe.sample import NAMED_FILES, SAMPLED_FILES, spread
from preprocessing.sources.columnar import COPY, OTHER, named_errors
from preprocessing.sources.shards import ByteRange
from preprocessing.sources.text_blocks import open_stored

_LEAST_ROWS = 4096


@dataclass
class SampledColumns:
    """Some rows of files that store columns, and the names of all of them."""

    arrays: dict[str, pa.Array] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    """File → names of its columns."""
    rows: float = 0
    """Estimate of the rows of all files."""
    doubts: list[str] = field(default_factory=list)


def read_columns(kind: str, files: Sequence[ByteRange], sample_bytes: int) -> SampledColumns:
    """Rows of the first, the middle and the last part of at most SAMPLED_FILES files.

    Raises:
        DataError: a file that cannot be read.
    """
    found, known = SampledColumns(), 0
    for file in spread(files, NAMED_FILES):
        with open_stored(file) as stored, named_errors(file, f"not of type {kind}", OTHER):
            content = _Content(kind, stored)
            found.names[file.name] = content.names
            found.rows += content.rows
            known += file.end
    found.rows *= sum(file.end for file in files) / max(1, known)
    chosen = spread(files, SAMPLED_FILES)
    tables = [_rows_of(kind, file, sample_bytes // len(chosen)) for file in chosen]
    for name in dict.fromkeys(name for names in found.names.values() for name in names):
        if not name:
            found.doubts.append("a column without a name is left out")
            continue
        parts = [one_array(t.column(name)) for t in tables if name in t.column_names]
        kinds = {part.type for part in parts}
        if len(kinds) > 1:
            shown = " and ".join(sorted(map(str, kinds)))
            found.doubts.append(f"{name} is {shown} in different files")
            parts = [part.cast(pa.string()) for part in parts]
        found.arrays[name] = pa.concat_arrays(parts) if parts else pa.nulls(0)
    return found


def absent_of(names_of: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Column → the files that lack it, given the names of each file's columns."""
    known = {file: set(names) for file, names in names_of.items()}
    every = dict.fromkeys(name for names in names_of.values() for name in names)
    lacking = {name: [f for f, names in known.items() if name not in names] for name in every}
    return {name: files for name, files in lacking.items() if files}


class _Content:
    """An open Parquet or ORC file."""

    def __init__(self, kind: str, stored: Any) -> None:
        self._file = pq.ParquetFile(stored) if kind == "parquet" else orc.ORCFile(stored)
        self._is_parquet = kind == "parquet"
        schema = self._file.schema_arrow if self._is_parquet else self._file.schema
        self.names = [*schema.names]
        self.rows = self._file.metadata.num_rows if self._is_parquet else self._file.nrows
        self.parts = self._file.num_row_groups if self._is_parquet else self._file.nstripes

    def read(self, part: int) -> pa.Table:
        """The rows of a row group or stripe."""
        if self._is_parquet:
            return self._file.read_row_group(part, use_threads=False)
        return pa.table(self._file.read_stripe(part))


def _rows_of(kind: str, file: ByteRange, size: int) -> pa.Table:
    """Rows of the first, the middle and the last row group or stripe."""
    with open_stored(file) as stored, named_errors(file, "cannot be read", COPY):
        content = _Content(kind, stored)
        last = content.parts - 1
        row_bytes = max(1.0, file.end * 3 / max(1, content.rows))
        most = max(_LEAST_ROWS, int(size / row_bytes / 3))
        tables = []
        for part in sorted({0, last // 2, last}) if last >= 0 else ():
            rows = content.read(part)
            rows.validate(full=True)  # Arrow takes texts as they are, and fails on them later
            third = most // 3
            starts = (0, (len(rows) - third) // 2, len(rows) - third)
            tables += [rows.slice(s, third) for s in starts] if len(rows) > most else [rows]
        if tables:
            return pa.concat_tables(tables)
        return pa.table({name: pa.nulls(0) for name in content.names})
