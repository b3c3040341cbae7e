"""Reads made-up logs with both scans, which must agree."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from ctrdist.errors import DataError
from ctrdist.features.encode import LocalRows
from preprocessing.config.checks import check_config
from preprocessing.config.settings import ColumnConfig, FormatConfig, PreprocessConfig
from preprocessing.scan.scanner import Scanner
from preprocessing.sources.quarantine import clean
from preprocessing.sources.reader import read_raw_blocks
from preprocessing.sources.shards import find_input_splits

LABEL = ColumnConfig(name="label", role="label")


def _write(path: Path, kind: str, rows: Any) -> None:
    """Writes rows: bytes as they are, dicts as JSON lines, an Arrow table as Parquet or ORC."""
    if isinstance(rows, bytes):
        path.write_bytes(rows)
    elif kind == "jsonl":
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines))
    elif kind == "orc":
        orc.write_table(rows, path)
    else:
        pq.write_table(rows, path)


def _config_of(path: Path, kind: str, columns: list[ColumnConfig], **layout) -> PreprocessConfig:
    config = PreprocessConfig(
        columns=columns, input=[str(path)], format=FormatConfig(type=kind, **layout)
    )
    check_config(replace(config, numeric_as="both"))  # a model needs a category
    return config


def _values(rows: LocalRows, scanner: Scanner) -> dict[str, list]:
    """The values of each column of a block."""
    found: dict[str, list] = {"label": rows.label.tolist()}
    if rows.timestamp is not None:
        found["timestamp"] = rows.timestamp.tolist()
    for name, numbers in rows.numbers.items():
        found[name] = [None if np.isnan(x) else x for x in numbers.tolist()]
    texts = {name: [*d.values().to_pylist(), None] for name, d in scanner.dictionaries.items()}
    for name, ids in rows.local_ids.items():
        found[name] = [texts[name][i] for i in ids]
    for name, (ends, ids) in rows.lists.items():
        flat = [texts[name][i] for i in ids]
        found[name] = [flat[a:b] for a, b in pairwise(ends)]
    return found


def _read(
    path: Path, kind: str, rows: Any, *columns: ColumnConfig, fast: bool = False, **layout
) -> dict[str, list]:
    """The values of a log of one block; `columns` come after the label unless they have one.

    `fast`: the fast scan must read it.
    """
    _write(path, kind, rows)
    known = list(columns)
    if not any(column.role == "label" for column in columns):
        known.insert(0, LABEL)
    config = _config_of(path, kind, known, **layout)
    [split] = find_input_splits(config)
    [block] = read_raw_blocks(split, config)
    slow = Scanner(config)
    expected = _values(slow.scan_table(block.parse()), slow)
    quick = Scanner(config)
    scanned = quick.scan(block)
    assert scanned is not None or not fast
    if scanned is not None:
        assert _values(scanned, quick) == expected
    good, bad = clean(block, config)
    again = Scanner(config)
    assert not bad and _values(again.scan_table(good), again) == expected
    return expected


def _refused(path: Path, kind: str, rows: Any, *columns: ColumnConfig, **layout) -> str:
    """The message of the only row that is refused."""
    with pytest.raises(DataError) as caught:
        _read(path, kind, rows, *columns, **layout)
    known = list(columns) if any(c.role == "label" for c in columns) else [LABEL, *columns]
    config = _config_of(path, kind, known, **layout)
    [block] = read_raw_blocks(find_input_splits(config)[0], config)
    assert Scanner(config).scan(block) is None
    _, [bad] = clean(block, config)
    assert f": {bad.reason}. " in str(caught.value)
    return str(caught.value)


@pytest.fixture
def read() -> Callable[..., dict[str, list]]:
    """Returns a function that reads a log of one block."""
    return _read


@pytest.fixture
def refused() -> Callable[..., str]:
    """Returns a function that gives the message of a log's only bad row."""
    return _refused


@pytest.fixture
def config_of() -> Callable[..., PreprocessConfig]:
    """Returns a function that makes a checked config."""
    return _config_of
