"""The members of sampled JSON lines as columns."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ctrdist.errors import DataError
from ctrdist.features.json_values import DECODER, json_text

NESTED = pa.struct([])
"""Type of a member that preprocessing does not read: an object, or a list of lists."""


def is_json(lines: Sequence[bytes], name: str) -> bool:
    """True where the lines of a file with this name are JSON objects.

    Raises:
        DataError: the file is JSON, but does not have one object on each line.
    """
    first = lines[0].strip()
    if first[:1] == b"[" and first[1:].strip()[:1] in (b"{", b""):
        raise DataError(
            f"{name}: this is a JSON array. Write one object per line: jq -c '.[]' IN > OUT"
        )
    if first == b"{":
        raise DataError(
            f"{name}: this is JSON over several lines. Write one object per line: jq -c . IN > OUT"
        )
    step = -(-len(lines) // 100)
    chosen = lines[::step]
    return sum(_is_object(line) for line in chosen) > 0.8 * len(chosen)


def read_members(lines: Sequence[bytes], encoding: str) -> tuple[dict[str, pa.Array], int]:
    """Member → its values in all lines, null where absent; and the lines that are no objects."""
    rows: list[dict[str, Any]] = []
    for line in lines:
        try:
            row = DECODER.decode(line.decode(encoding))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    return columns, len(lines) - len(rows)


def _column(values: list[Any]) -> pa.Array:
    items = [item for v in values for item in (v if isinstance(v, list) else [v])]
    if any(isinstance(item, (dict, list)) for item in items):
        return pa.nulls(len(values), NESTED)
    if items and all(isinstance(item, bool) or item is None for item in values):
        return pa.array(values, pa.bool_())
    if any(isinstance(value, list) for value in values):
        lists = [v if v is None or isinstance(v, list) else [v] for v in values]
        texts = [None if v is None else [*map(json_text, v)] for v in lists]
        return pa.array(texts, pa.list_(pa.string()))
    return pa.array([json_text(value) for value in values], pa.string())


def _is_object(line: bytes) -> bool:
    line = line.strip()
    if not (line.startswith(b"{") and line.endswith(b"}")):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
