"""Reads the sample of a log as columns, whatever its format."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.errors import DataError
from preprocessing.config.settings import FormatConfig
from preprocessing.describe.dialect import dialect_of, encoding_of, header_of
from preprocessing.describe.json_members import is_json, read_members
from preprocessing.describe.sample import (
    NAMED_FILES,
    SAMPLED_FILES,
    Piece,
    first_line,
    kind_of,
    read_pieces,
    spread,
)
from preprocessing.sources.delimited import line_fault, parse_lines
from preprocessing.sources.dialect import split_line
from preprocessing.sources.shards import ByteRange
from preprocessing.sources.text_blocks import open_stored

_ROWS_OF_GROUP = 4096


@dataclass
class Sample:
    """Some rows of a log, and what the files tell about all of it."""

    layout: FormatConfig
    columns: dict[str, pa.Array] = field(default_factory=dict)
    """Name → values of the sampled rows; of a nested type where preprocessing reads none."""
    rows: float = 0
    """Estimate of the log's rows."""
    bad_rows: int = 0
    """Sampled rows that cannot be read."""
    reasons: list[str] = field(default_factory=list)
    """Why the layout is as it is."""
    doubts: list[str] = field(default_factory=list)
    absent: dict[str, list[str]] = field(default_factory=dict)
    """Column → files that lack it, of those that were asked."""

    @property
    def sampled(self) -> int:
        """Rows of the sample."""
        return len(next(iter(self.columns.values()), []))


def read_sample(files: Sequence[ByteRange], sample_bytes: int) -> Sample:
    """Reads some rows from all over the log, and the names of the columns of its files.

    Raises:
        DataError: the files cannot be read, or are not of one format and one kind of row.
    """
    filled = [file for file in files if file.end]
    if not filled:
        raise DataError("all files are empty. Give files with rows.")
    kinds = {kind_of(file): file.name for file in spread(filled, SAMPLED_FILES)}
    if len(kinds) > 1:
        shown = ", ".join(f"{name} is {kind}" for kind, name in kinds.items())
        raise DataError(f"the files are of several formats ({shown}). Describe them one by one.")
    kind = next(iter(kinds))
    if kind == "parquet":
        return _read_parquet(filled, sample_bytes)
    if kind != "text":
        raise DataError(f"{filled[0].name}: this is an {kind} file, which is not read.")
    pieces = read_pieces(filled, sample_bytes)
    lines = [line for piece in pieces for line in piece.lines]
    encoding, doubt = encoding_of(lines)
    if is_json(lines):
        columns, bad = read_members(lines, encoding)
        sample = Sample(FormatConfig(type="jsonl", encoding=encoding), columns, bad_rows=bad)
        sample.reasons.append("each line is a JSON object")
    else:
        sample = _read_delimited(filled, pieces, encoding)
    if doubt:
        sample.doubts.append(doubt)
    stored = sum(file.end for file in filled)
    sample.rows = len(lines) * stored / max(1, sum(piece.stored_bytes for piece in pieces))
    return sample


def _read_delimited(files: Sequence[ByteRange], pieces: list[Piece], encoding: str) -> Sample:
    texts = [
        [line.removesuffix(b"\r").decode(encoding, "replace") for line in piece.lines]
        for piece in pieces
    ]
    of_file: dict[str, list[str]] = {}
    for piece, lines in zip(pieces, texts, strict=True):
        of_file.setdefault(piece.file.name, []).extend(lines)
    groups = [*of_file.values()]
    dialect = dialect_of(groups)
    layout = replace(dialect.layout, encoding=encoding)
    split = [split_line(line, layout)[0] for line in groups[0][:5000]]
    body = [values for values in split[1:] if len(values) == dialect.columns]
    has_header, why = header_of(split[0], body)
    layout = replace(layout, header=has_header)
    sample = Sample(layout)
    consistent = "all" if dialect.consistent == 1 else f"{dialect.consistent:.2%} of the"
    sample.reasons.append(f"{consistent} sampled lines have {dialect.columns} columns")
    sample.reasons.append(f"header {str(has_header).lower()}: {why}")
    if dialect.open_quotes:
        sample.doubts.append(
            f"a quote stays open in {dialect.open_quotes:,} of the lines examined; rows with a "
            "line end in a quoted value are not read"
        )
    headers = _headers(files, layout, split[0]) if has_header else {}
    _check_one_log(pieces, texts, layout, dialect.columns, headers)
    sample.absent = _absent(headers)
    tables = []
    for piece, lines in zip(pieces, texts, strict=True):
        names = headers.get(piece.file.name) or split[0]
        if not has_header:
            names = [f"c{i + 1}" for i in range(dialect.columns)]
        table, bad = _parsed(piece, lines, layout, names)
        tables.append(table)
        sample.bad_rows += bad
    if not any(map(len, tables)):
        raise DataError(f"{pieces[0].file.name}: no rows below the header. Give files with rows.")
    joined = pa.concat_tables(tables, promote_options="default").combine_chunks()
    sample.columns = {name: _one(joined.column(name)) for name in joined.column_names}
    return sample


def _parsed(
    piece: Piece, lines: list[str], layout: FormatConfig, names: list[str]
) -> tuple[pa.Table, int]:
    """The rows of a piece, and the number of lines that are none."""
    raw, bad = piece.lines, 0
    if layout.header:
        headers = {i for i, line in enumerate(lines) if split_line(line, layout)[0] == names}
        raw = [line for i, line in enumerate(raw) if i not in headers]
        bad = len(headers) - piece.is_start
    names = _unique(names)
    table = parse_lines(b"".join(line + b"\n" for line in raw), layout, names, names)
    if table is None:
        good = [line for line in raw if line_fault(line, layout, names) is None]
        bad += len(raw) - len(good)
        table = parse_lines(b"".join(line + b"\n" for line in good), layout, names, names)
    if table is None:
        raise DataError(f"{piece.file.name}: cannot be read as {layout.type}.")
    return table, bad


def _headers(
    files: Sequence[ByteRange], layout: FormatConfig, first: Sequence[str]
) -> dict[str, list[str]]:
    """File → names of its columns; raises DataError where one does not begin with a header."""
    found = {}
    for file in spread(files, NAMED_FILES):
        line = first_line(file).removesuffix(b"\r").decode(layout.encoding, "replace")
        names = split_line(line, layout)[0]
        if line and not set(names) & set(first):
            raise DataError(
                f"{file.name} does not begin with a header, and {files[0].name} does. Give each "
                "file the header, or none of them."
            )
        if line:
            found[file.name] = names
    return found


def _check_one_log(
    pieces: Sequence[Piece],
    texts: Sequence[Sequence[str]],
    layout: FormatConfig,
    columns: int,
    headers: dict[str, list[str]],
) -> None:
    """Refuses files of different columns; raises DataError."""
    for piece, lines in zip(pieces, texts, strict=True):
        expected = len(headers.get(piece.file.name, range(columns)))
        counts = Counter(len(split_line(line, layout)[0]) for line in lines[:100])
        most = counts.most_common(1)[0][0]
        if most != expected:
            raise DataError(
                f"the files are not one log: {pieces[0].file.name} has {columns} columns, "
                f"{piece.file.name} has {most}. Describe the log alone; tables that belong to it "
                "are joined by `joins` in the YAML (docs/data.md)."
            )


def _absent(names_of: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Column → the files whose names lack it."""
    known = {file: set(names) for file, names in names_of.items()}
    every = dict.fromkeys(name for names in names_of.values() for name in names)
    lacking = {name: [f for f, names in known.items() if name not in names] for name in every}
    return {name: files for name, files in lacking.items() if files}


def _read_parquet(files: Sequence[ByteRange], sample_bytes: int) -> Sample:
    sample = Sample(FormatConfig(type="parquet"), reasons=["the files begin with PAR1"])
    schemas: dict[str, list[str]] = {}
    known = 0
    for file in spread(files, NAMED_FILES):
        with open_stored(file) as stored:
            parquet = _opened(file, stored)
            schemas[file.name] = parquet.schema_arrow.names
            known += file.end
            sample.rows += parquet.metadata.num_rows
    sample.rows *= sum(file.end for file in files) / max(1, known)
    names = list(dict.fromkeys(name for schema in schemas.values() for name in schema))
    sample.absent = _absent(schemas)
    chosen = spread(files, SAMPLED_FILES)
    tables = [_groups_of(file, sample_bytes // len(chosen)) for file in chosen]
    for name in names:
        parts = [t.column(name).combine_chunks() for t in tables if name in t.column_names]
        kinds = {part.type for part in parts}
        if not name:
            sample.doubts.append("a column without a name is left out")
        elif len(kinds) == 1:
            sample.columns[name] = _one(pa.chunked_array(parts))
        else:
            shown = " and ".join(sorted(map(str, kinds)))
            sample.doubts.append(f"{name} is {shown} in different files")
            texts = [part.cast(pa.string()) for part in parts]
            sample.columns[name] = _one(pa.chunked_array(texts))
    return sample


def _groups_of(file: ByteRange, size: int) -> pa.Table:
    """Rows of the first, the middle and the last row group."""
    with open_stored(file) as stored:
        parquet = _opened(file, stored)
        last = parquet.num_row_groups - 1
        groups = sorted({0, last // 2, last}) if last >= 0 else []
        row_bytes = file.end * 3 / max(1, parquet.metadata.num_rows)
        rows = max(_ROWS_OF_GROUP, int(size / max(1.0, row_bytes) / 3))
        try:
            parts = []
            for group in groups:
                table = parquet.read_row_group(group, use_threads=False)
                third = rows // 3
                middle = max(0, (len(table) - third) // 2)
                begins = (0, middle, max(0, len(table) - third)) if len(table) > rows else (0,)
                parts += [table.slice(b, third if len(begins) > 1 else None) for b in begins]
            return pa.concat_tables(parts) if parts else parquet.schema_arrow.empty_table()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file.name}: damaged ({error}). Copy or write it again.") from error


def _opened(file: ByteRange, stored: object) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(stored)
    except (pa.ArrowException, OSError, io.UnsupportedOperation) as error:
        raise DataError(f"{file.name}: not a Parquet file ({error}).") from error


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _unique(names: Sequence[str]) -> list[str]:
    """The names, of which those that repeat and empty ones get a zero byte and a number."""
    counts = Counter(names)
    return [name if name and counts[name] == 1 else f"{name}\0{i}" for i, name in enumerate(names)]
