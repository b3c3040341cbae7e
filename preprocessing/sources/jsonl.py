"""JSON lines: one object per line, whose members are the columns.

The type of a column follows from its role alone, not from the values in a block: text for a
category, float64 for a number, int64 for a time without a format, a list of texts for multi-valued
columns. A number that is a category is its text as the file writes it, and the integer's where it
is whole: 5.0 is 5.

Arrow reads a block where the first lines show the types of all; Python reads the others, with the
same result.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from ctrdist.features.columns import ColumnConfig
from ctrdist.features.faults import Fault, wrong_value
from ctrdist.features.hashing import one_array
from ctrdist.features.json_values import DECODER, Number, json_text, parse_list
from ctrdist.features.raw_values import read_integers, read_lists, read_numbers
from preprocessing.config.settings import FormatConfig
from preprocessing.sources.delimited import decoded, not_decoded
from preprocessing.sources.raw_block import TableConfig, missing_texts
from preprocessing.sources.shards import ByteRange
from preprocessing.sources.text_blocks import LinesOfFormat, read_text, without_blank_lines

_SAMPLE = 20
"""Lines from which types are guessed."""


class JsonBlock(LinesOfFormat):
    """Rows of JSON lines, null where a line lacks a member."""

    def read_all(self) -> pa.Table | None:
        """The columns, read by Arrow; None where Python must read them."""
        return _fast(without_blank_lines(self.raw), self.table.layout, _kinds(self.table))

    def read_good(self) -> tuple[pa.Table, np.ndarray, list[tuple[int, Fault]]]:
        """The columns, read by Python."""
        return read_json_lines(self.lines, self.table.layout, _kinds(self.table))


def raw_blocks(byte_range: ByteRange, table: TableConfig, block_bytes: int) -> Iterator[JsonBlock]:
    """Blocks of a byte range; raises DataError, see :func:`read_text`."""
    for text in read_text(byte_range, block_bytes):
        yield JsonBlock(byte_range, text.raw, text.skipped, text.consumed, table)


def read_json_lines(
    lines: Sequence[bytes], layout: FormatConfig, kinds: Mapping[str, ColumnConfig]
) -> tuple[pa.Table, np.ndarray, list[tuple[int, Fault]]]:
    """Reads the columns of lines, none of them blank, one by one.

    Returns:
        The columns of the good lines, their (n,) indices, and index and fault of the others in
        order.
    """
    faults: dict[int, Fault] = {}
    rows, objects = [], []
    for index, line in enumerate(lines):
        found = _object(line, layout)
        if isinstance(found, Fault):
            faults[index] = found
        else:
            objects.append(found)
            rows.append(index)
    arrays, good = {}, np.ones(len(rows), bool)
    for name, column in kinds.items():
        arrays[name], wrong = _column([row.get(name) for row in objects], column, layout)
        for i, fault in wrong.items():
            faults.setdefault(rows[i], fault)
            good[i] = False
    table = pa.table(arrays)
    if not good.all():
        table = table.filter(pa.array(good))
    return table, np.asarray(rows, np.int64)[good], sorted(faults.items(), key=lambda f: f[0])


def _kinds(table: TableConfig) -> dict[str, ColumnConfig]:
    """The columns to read, by name."""
    by_name = {column.name: column for column in table.columns}
    return {name: by_name[name] for name in (by_name if table.wanted is None else table.wanted)}


def _object(line: bytes, layout: FormatConfig) -> dict[str, Any] | Fault:
    try:
        text = decoded(line, layout).decode()
        found = DECODER.decode(text)
        if b"\\u" in line:
            json.dumps(found, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        return Fault(
            f"not JSON ({error.msg} at character {error.colno})",
            "Write each row as one JSON object on a line of its own.",
        )
    except UnicodeEncodeError:
        return Fault("half of a surrogate pair in a text", "Fix the row.")
    except UnicodeError as error:
        return not_decoded(layout, error)
    except RecursionError:
        return Fault("nested too deeply", "Give one object per line.")
    if isinstance(found, dict):
        return found
    return Fault("no JSON object", "Write each row as one JSON object, with the columns' names.")


def _column(
    values: list[Any], column: ColumnConfig, layout: FormatConfig
) -> tuple[pa.Array, dict[int, Fault]]:
    """The column, and the faults of some of its values by index."""
    faults: dict[int, Fault] = {}
    kind = _kind(column)
    types: set[type] = set(map(type, values))
    if kind == pa.string() and types <= {str, Number, NoneType} and "-0" not in values:
        return pa.array(values, kind), faults
    if pa.types.is_list(kind) or not types <= {Number, NoneType}:
        for i, value in enumerate(values):
            values[i] = _value(value, column, layout)
            if isinstance(values[i], Fault):
                faults[i], values[i] = values[i], None
    if pa.types.is_list(kind) or kind == pa.string():
        return pa.array(values, kind), faults
    texts = pa.array(values, pa.string())
    numbers, bad = read_numbers(texts) if kind == pa.float64() else read_integers(texts)
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    bad &= ~missing
    for i in np.flatnonzero(bad).tolist():
        faults[i] = wrong_value(column, values[i])
    return pa.array(numbers, kind, mask=missing | bad), faults


def _value(value: Any, column: ColumnConfig, layout: FormatConfig) -> Any:
    """A text, a list of texts or a fault; None where the value is missing."""
    many = column.role == "multi_valued"
    is_list = isinstance(value, list)
    items = value if many and is_list else [value]
    if any(isinstance(item, (dict, list)) for item in items):
        what = "nested values" if many else "a list" if is_list else "an object"
        wants = "a list of texts" if many else "one value"
        remedy = "Make it a column of its own, or leave it out of `columns` in the data-set YAML."
        reason = f"column {column.name} wants {wants}, got {what}"
        return Fault(reason, remedy, column.name)
    if many and is_list:
        return [_text(item, column) for item in items]
    if isinstance(value, str) and not isinstance(value, Number):
        if value in missing_texts(layout, column):
            return None
        if many and column.text == "json":
            items = parse_list(value)
            return wrong_value(column, value) if items is None else items
    text = _text(value, column)
    return text.split(column.item_separator) if many and text is not None else text


def _text(value: Any, column: ColumnConfig) -> str | None:
    if _kind(column) not in (pa.float64(), pa.int64()):
        return json_text(value)
    if isinstance(value, bool):
        return str(int(value))
    return "0" if value == "-0" else value  # as Arrow reads it


def _kind(column: ColumnConfig) -> pa.DataType:
    match column.role:
        case "multi_valued":
            return pa.list_(pa.string())
        case "timestamp" if column.format is None:
            return pa.int64()
        case "numeric" | "weight":
            return pa.float64()
        case "label" if not column.positive:
            return pa.float64()
    return pa.string()


def _fast(raw: bytes, layout: FormatConfig, kinds: Mapping[str, ColumnConfig]) -> pa.Table | None:
    """The columns of a block, read by Arrow; None where it might read them differently."""
    rows = raw.count(b"\n")
    if rows == 0:
        return pa.table({name: pa.array([], _kind(c)) for name, c in kinds.items()})
    # Arrow ignores line ends. Where each line begins and ends with a brace, and there are as many
    # objects as lines, there is one object on each line.
    braces = raw[:1] == b"{" and raw.count(b"\n{") == rows - 1
    if not braces or raw.count(b"}\n") + raw.count(b"}\r\n") != rows:
        return None
    schema = _guess(raw, kinds)
    if schema is None:
        return None
    try:
        raw = decoded(raw, layout)
        table = pa_json.read_json(
            pa.BufferReader(raw),
            read_options=pa_json.ReadOptions(use_threads=False, block_size=len(raw) + 1),
            parse_options=pa_json.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore"
            ),
        ).combine_chunks()
        if table.num_rows != rows:
            return None
        columns = {n: _converted(table.column(n), c, layout) for n, c in kinds.items()}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeError):
        return None
    return pa.table(columns)


def _guess(raw: bytes, kinds: Mapping[str, ColumnConfig]) -> pa.Schema | None:
    """Types for Arrow from the first lines; None where Arrow would not keep the text of a value."""
    try:
        sample = [json.loads(line) for line in raw.split(b"\n", _SAMPLE)[:-1][:_SAMPLE]]
    except (ValueError, RecursionError):
        return None
    fields = []
    for name, column in kinds.items():
        given = [row.get(name) for row in sample if isinstance(row, dict)]
        is_list = any(isinstance(value, list) for value in given)
        if is_list:
            given = [item for value in given if isinstance(value, list) for item in value]
        types = {type(value) for value in given if value is not None}
        kind = _kind(column)
        if pa.types.is_list(kind) or kind == pa.string():
            arrow = {str: pa.string(), int: pa.int64(), bool: pa.bool_()}
            if len(types) > 1 or not types <= set(arrow):
                return None  # 1.50 and 1.5 are two categories
            one = arrow[types.pop()] if types else pa.string()
            no_value = pa.types.is_list(kind) and not given
            fields.append((name, pa.list_(one) if is_list or no_value else one))
        elif types <= {int, float}:
            fields.append(
                (name, pa.int64() if types == {int} and kind == pa.int64() else pa.float64())
            )
        elif len(types) == 1 and types <= {str, bool}:
            fields.append((name, pa.string() if types == {str} else pa.bool_()))
        else:
            return None
    return pa.schema(fields)


def _converted(column: pa.ChunkedArray, config: ColumnConfig, layout: FormatConfig) -> pa.Array:
    """Casts a column from the type that was guessed to that of its kind."""
    array = one_array(column)
    kind = _kind(config)
    if array.type == kind:
        return array
    if pa.types.is_string(array.type):
        texts = pa.array(missing_texts(layout, config), pa.string())
        array = pc.if_else(pc.is_in(array, value_set=texts), pa.scalar(None, pa.string()), array)
    if pa.types.is_list(kind):
        lists, bad = read_lists(array, config)
        if bad.any():
            raise pa.ArrowInvalid("Python tells which value is no list")
        return lists
    if pa.types.is_boolean(array.type) and kind != pa.string():
        array = array.cast(pa.int64())
    return array.cast(kind)
