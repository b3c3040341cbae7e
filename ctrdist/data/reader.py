"""Reads shuffle buffers of a split from its Parquet files, local or on an object store."""

# W rows of a buffer

import threading
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.data.manifest import Dataset
from ctrdist.data.order import Buffer, RowGroup, RowRange
from ctrdist.data.rows import Rows, check_columns, columns, from_table
from ctrdist.errors import DataError
from ctrdist.storage import Store

_KEPT_FOOTERS = 256


class SplitReader:
    """Reads row groups; several threads may use it at once."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        """Opens no file yet."""
        self._dataset = dataset
        self._files = dataset.split(split).files
        self._store = Store(dataset.path)
        self._columns = columns(dataset.schema, dataset.label_column)
        self._footers: dict[int, pq.FileMetaData] = {}
        self._lock = threading.Lock()

    def read(self, buffer: Buffer, order_W: np.ndarray | None = None) -> Rows:
        """Returns the rows of a buffer, in stored order or in a given one.

        Raises:
            DataError: a file cannot be read, or holds other rows than the manifest says.
        """
        tables = [self._range_table(part) for part in buffer.ranges]
        try:
            return self._rows(buffer.ranges, pa.concat_tables(tables), order_W)
        except DataError:
            for part, table in zip(buffer.ranges, tables, strict=True):
                self._rows([part], table)  # raises for the first file that is wrong
            raise

    def _rows(
        self, ranges: Sequence[RowRange], table: pa.Table, order_W: np.ndarray | None = None
    ) -> Rows:
        checked = set.intersection(*(self._checked(part.group) for part in ranges))
        row_W = np.concatenate(
            [part.group.first_row + np.arange(part.begin, part.end) for part in ranges]
        )
        where = f"{self._dataset.path}/{self._files[ranges[0].group.file].path}"
        dataset = self._dataset
        rows = from_table(
            *(table, dataset.schema, row_W, where, checked, order_W), label=dataset.label_column
        )
        if rows.weight_W is not None:
            rows.weight_W = rows.weight_W / np.float32(dataset.mean_weight)
        return rows

    def _range_table(self, part: RowRange) -> pa.Table:
        group = part.group
        path = self._files[group.file].path
        try:
            table = self._row_group(group)
        except MemoryError:  # Arrow's own is an ArrowException too, and the file is sound
            raise
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{self._dataset.path}/{path}: cannot be read ({error}). The data set is "
                "damaged or incomplete; run jobs/preprocess.py again."
            ) from error
        if table.num_rows != group.rows:
            raise DataError(
                f"{self._dataset.path}/{path}: row group {group.index} has {table.num_rows} "
                f"rows, the manifest says {group.rows}. The file was changed; run "
                "jobs/preprocess.py again."
            )
        return table.slice(part.begin, part.rows)

    def _checked(self, group: RowGroup) -> set[str]:
        """Returns the fields whose ids are within the vocabulary by Parquet's statistics."""
        with self._lock:
            footer = self._footers.get(group.file)
        if footer is None:
            return set()
        stored = footer.row_group(group.index)
        columns = [stored.column(i) for i in range(stored.num_columns)]
        found = {column.path_in_schema: column.statistics for column in columns}
        return {
            field.name
            for field in self._dataset.schema.categorical
            if (known := found.get(field.name)) is not None
            and known.has_min_max
            and 0 <= known.min <= known.max < field.vocabulary_size
        }

    def _row_group(self, group: RowGroup) -> pa.Table:
        with self._lock:
            footer = self._footers.get(group.file)
        source = self._store.input(self._files[group.file].path)
        with source, pq.ParquetFile(source, metadata=footer, pre_buffer=True) as parquet:
            if footer is None:
                path = f"{self._dataset.path}/{self._files[group.file].path}"
                found, dataset = parquet.schema_arrow, self._dataset
                check_columns(found, dataset.schema, dataset.label_column, path)
            with self._lock:
                if group.file not in self._footers and len(self._footers) >= _KEPT_FOOTERS:
                    self._footers.clear()
                self._footers[group.file] = parquet.metadata
            # the loader has threads of its own
            return parquet.read_row_group(group.index, columns=self._columns, use_threads=False)
