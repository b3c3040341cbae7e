"""Reads the sample of a log as columns, whatever its format."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from ctrdist.errors import DataError
from ctrdist.features.hashing import one_array
from preprocessing.config.settings import FormatConfig
from preprocessing.describe.columnar import absent_of, read_columns
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
        names = ", ".join(file.name for file in files[:3])
        raise DataError(f"{names}: no rows; all files are empty. Give files with rows.")
    kinds = {kind_of(file): file.name for file in spread(filled, SAMPLED_FILES)}
    if len(kinds) > 1:
        shown = ", ".join(f"{name} is {kind}" for kind, name in kinds.items())
        raise DataError(f"the files are of several formats ({shown}). Describe them one by one.")
    kind = next(iter(kinds))
    if kind != "text":
        return _read_columnar(kind, filled, sample_bytes)
    pieces = read_pieces(filled, sample_bytes)
    lines = [line for piece in pieces for line in piece.lines]
    encoding, doubt = encoding_of(lines)
    if is_json(lines, pieces[0].file.name):
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
    dialect = dialect_of(groups, pieces[0].file.name)
    layout = replace(dialect.layout, encoding=encoding)
    split = [split_line(line, layout)[0] for line in groups[0][:5000]]
    if len(split[0]) != dialect.columns:
        raise DataError(
            f"{pieces[0].file.name}: the first line has {len(split[0])} values, and the others "
            f"have {dialect.columns}. Correct it, or remove it."
        )
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
    sample.absent = absent_of(headers)
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
    sample.columns = {name: one_array(joined.column(name)) for name in joined.column_names}
    return sample


def _read_columnar(kind: str, files: Sequence[ByteRange], sample_bytes: int) -> Sample:
    columns = read_columns(kind, files, sample_bytes)
    return Sample(
        FormatConfig(type=kind),  # type: ignore[arg-type]
        columns.arrays,
        columns.rows,
        reasons=["the first bytes of the files say so"],
        doubts=columns.doubts,
        absent=absent_of(columns.names),
    )


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


def _unique(names: Sequence[str]) -> list[str]:
    """The names, of which those that repeat and empty ones get a zero byte and a number."""
    counts = Counter(names)
    return [name if name and counts[name] == 1 else f"{name}\0{i}" for i, name in enumerate(names)]
