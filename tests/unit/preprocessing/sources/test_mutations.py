"""Whatever happens to a file, it loads, with all its rows, or one message says where and what."""

import gzip
import json
import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import orc

from ctrdist.errors import DataError
from ctrdist.features.typed_columns import TypedColumns, read_typed_columns
from preprocessing.config.settings import ColumnConfig, FormatConfig, PreprocessConfig
from preprocessing.sources.quarantine import clean
from preprocessing.sources.raw_block import Block
from preprocessing.sources.reader import read_blocks, read_raw_blocks
from preprocessing.sources.shards import find_input_splits

COLUMNS = [
    ColumnConfig(name="label", role="label"),
    ColumnConfig(name="n", role="numeric", type="integer"),
    ColumnConfig(name="c"),
    ColumnConfig(name="m", role="multi_valued"),
]
ODD_COLUMNS = [
    ColumnConfig(name="label", role="label", positive=["click", 1]),
    ColumnConfig(name="n", role="numeric", missing_texts=["\\N", "-1"]),
    ColumnConfig(name="c"),
    ColumnConfig(name="m", role="multi_valued", text="json"),
    ColumnConfig(name="t", role="timestamp", format="iso8601"),
]
"""Columns whose values are read in the ways that only some logs need."""
ROWS = [
    {"label": i % 2, "n": i * 7, "c": f'v"{i % 5},é' if i % 7 == 0 else f"v{i % 5}", "m": "a|b"}
    for i in range(40)
]
REMEDY = re.compile(r"\. (Fix|Set|Copy|Give|Correct|Remove|Write|Rename|Check|Make|Close) .*\.$")


def typed(block: Block, config: PreprocessConfig) -> TypedColumns:
    return read_typed_columns(block.table, config, block.where)


def quoted(value: object) -> str:
    return '"' + str(value).replace('"', '""') + '"'


def delimited(separator: str, show: Callable[[object], str], header: bool) -> bytes:
    rows = [separator.join(show(value) for value in row.values()) for row in ROWS]
    names = [separator.join(ROWS[0])] if header else []
    return ("\n".join([*names, *rows]) + "\n").encode()


ODD_ROWS = [
    {
        "label": ["click", "view", "1", ""][i % 4],
        "n": ["\\N", -1, i, 0.5][i % 4],
        "c": row["c"],
        "m": ["[16, 17]", "['a', None]", '["x"]', ""][i % 4],
        "t": f"2024-01-{1 + i % 28:02d}T10:00:00{['', 'Z', '+02:00', '.5'][i % 4]}",
    }
    for i, row in enumerate(ROWS)
]


def escaped(value: object) -> str:
    return str(value) if value == "\\N" else '"' + str(value).replace('"', '\\"') + '"'


TEXTS = {
    "tsv": delimited("\t", str, False),
    "csv": delimited(",", quoted, True),
    "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode(),
    "odd.csv": "".join(" , ".join(map(escaped, row.values())) + "\n" for row in ODD_ROWS).encode(),
    "odd.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ODD_ROWS).encode(),
}
LAYOUTS = {
    **{kind: FormatConfig(type=kind, header=kind == "csv") for kind in ("tsv", "csv", "jsonl")},  # type: ignore[arg-type]
    **{kind: FormatConfig(type=kind) for kind in ("parquet", "orc")},  # type: ignore[arg-type]
    "odd.csv": FormatConfig(type="csv", escape="\\", skip_blank=True),
    "odd.jsonl": FormatConfig(type="jsonl"),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda raw: pa.compress(raw, codec="zstd", asbytes=True) if raw else b"",
}
NASTY = [
    *(b"\xff", b"\0", b"\r", b"\n", b"\r\n", b'"', b'""', b"\t", b",", b"{", b"}", b"[", b"\\"),
    *(b" ", b"\\N", b"\\\\", b"now", b"['a' 'b']", b"2024-02-30", b"true", b"1e308"),
    *(b"\xef\xbb\xbf", b"99999999999999999999", b"1e999", b"-0", b"nan", b"\xe2\x80\xa8"),
    *(b"label\tn\tc\tm\n", b"label,n,c,m\n", b'{"label": 1, "label": 0}\n', b"x" * 200_000),
]


@st.composite
def mutations(draw: st.DrawFn, raw: bytes) -> bytes:
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        end = draw(st.integers(at, min(len(raw), at + 60)))
        kind = draw(st.sampled_from(["cut", "insert", "delete", "twice", "flip", "ends", "tail"]))
        if kind == "cut":
            raw = raw[:at]
        elif kind == "insert":
            raw = raw[:at] + draw(st.sampled_from(NASTY)) + raw[at:]
        elif kind == "delete":
            raw = raw[:at] + raw[end:]
        elif kind == "twice":
            raw = raw[:end] + raw[at:end] + raw[end:]
        elif kind == "flip" and at < len(raw):
            raw = raw[:at] + bytes([raw[at] ^ draw(st.integers(1, 255))]) + raw[at + 1 :]
        elif kind == "ends":
            raw = raw.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\r", b"\n\n"])))
        elif kind == "tail":
            raw = raw.removesuffix(b"\n")
    return raw


def load(path: Path, config: PreprocessConfig) -> int:
    """Rows, read as the pipeline reads them."""
    shards = find_input_splits(config)
    fields = [typed(block, config) for shard in shards for block in read_blocks(shard, config)]
    rows = sum(len(f.label) for f in fields)
    return rows


def setting(path: Path, kind: str, size: int) -> PreprocessConfig:
    """For a text of `size` bytes, which makes about three blocks."""
    columns = ODD_COLUMNS if kind.startswith("odd") else COLUMNS
    shard_bytes = max(700, size // 3)
    return PreprocessConfig(
        columns=columns, input=[str(path)], format=LAYOUTS[kind], shard_bytes=shard_bytes
    )


def refused(error: DataError, path: Path, *, text: bool) -> None:
    message = str(error)
    assert message.startswith(str(path)) and "\n" not in message, message
    assert REMEDY.search(message), message
    whole_file = "damaged|cannot be read|no rows"
    assert not text or re.search(rf"^{re.escape(str(path))}(:\d+:|: ({whole_file}))", message), (
        message
    )
    assert len(message) < 5000


def rows_of(raw: bytes, kind: str) -> int:
    """Rows of a text that has none that is bad."""
    return max(0, lines_of(raw) - LAYOUTS[kind].header)


def lines_of(raw: bytes) -> int:
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    return sum(bool(line.strip(b"\r")) for line in raw.split(b"\n"))


def check_text(folder: Path, kind: str, packing: str, raw: bytes, stored: bytes | None) -> None:
    """`stored`: what the packed file has become, where it was changed after being packed."""
    path = folder / f"log.{kind}{packing}"
    path.write_bytes(PACKED[packing](raw) if stored is None else stored)
    config = setting(path, kind, len(raw))
    rows = rows_of(raw, kind)
    accepted = True
    try:
        got = load(path, config)
        assert stored is not None or got == rows
    except DataError as error:
        refused(error, path, text=True)
        accepted = False
    try:
        shards = find_input_splits(config)
        parts = [
            clean(block, config) for shard in shards for block in read_raw_blocks(shard, config)
        ]
    except DataError as error:
        refused(error, path, text=True)
        assert not accepted
    else:
        bad = [row for _, rows in parts for row in rows]
        assert accepted == (not bad)
        assert stored is not None or sum(b.table.num_rows for b, _ in parts) + len(bad) == rows
        for block, _ in parts:
            typed(block, config)


def quick(test: Callable) -> Callable:
    limits = {"deadline": None, "suppress_health_check": list(HealthCheck)}
    return settings(max_examples=25, **limits)(test)  # type: ignore[arg-type]


def thorough(test: Callable) -> Callable:
    limits = {"deadline": None, "suppress_health_check": list(HealthCheck)}
    return pytest.mark.slow(settings(max_examples=1000, **limits)(test))  # type: ignore[arg-type]


def mutate_text(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    raw = data.draw(mutations(TEXTS[kind]))
    packing = data.draw(st.sampled_from(list(PACKED)))
    check_text(tmp_path, kind, packing, raw, None)


def mutate_packed(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    packing = data.draw(st.sampled_from([".gz", ".zst"]))
    stored = data.draw(mutations(PACKED[packing](TEXTS[kind])))
    check_text(tmp_path, kind, packing, TEXTS[kind], stored)


def mutate_parquet(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "log.parquet"
    table = pa.Table.from_pylist(ROWS)
    options = data.draw(
        st.fixed_dictionaries(
            {
                "compression": st.sampled_from(["none", "snappy", "zstd"]),
                "use_dictionary": st.booleans(),
                "row_group_size": st.sampled_from([7, 40]),
                "write_page_checksum": st.booleans(),
            }
        )
    )
    pq.write_table(table, path, **options)
    path.write_bytes(data.draw(mutations(path.read_bytes())))
    try:
        assert load(path, setting(path, "parquet", path.stat().st_size)) == len(ROWS)
    except DataError as error:
        refused(error, path, text=False)


def mutate_orc(tmp_path: Path, data: st.DataObject) -> None:
    """In a process of its own: ORC's library crashes for some damaged files.

    The pool tells of a worker that died: tests/unit/preprocessing/runtime/test_local_pool.py.
    """
    path = tmp_path / "log.orc"
    compression = data.draw(st.sampled_from(["uncompressed", "zlib", "zstd"]))
    orc.write_table(pa.Table.from_pylist(ROWS), path, compression=compression)
    path.write_bytes(data.draw(mutations(path.read_bytes())))
    child = os.fork()
    if child == 0:
        try:
            try:
                assert load(path, setting(path, "orc", path.stat().st_size)) == len(ROWS)
            except DataError as error:
                refused(error, path, text=False)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0


@pytest.mark.parametrize("kind", TEXTS)
@given(data=st.data())
@quick
def test_texts(tmp_path, kind, data):
    mutate_text(tmp_path, kind, data)


@pytest.mark.parametrize("kind", TEXTS)
@given(data=st.data())
@quick
def test_packed_texts(tmp_path, kind, data):
    mutate_packed(tmp_path, kind, data)


@given(data=st.data())
@quick
def test_parquet(tmp_path, data):
    mutate_parquet(tmp_path, data)


@given(data=st.data())
@quick
def test_orc(tmp_path, data):
    mutate_orc(tmp_path, data)


@pytest.mark.parametrize("kind", TEXTS)
@given(data=st.data())
@thorough
def test_a_thousand_texts(tmp_path, kind, data):
    mutate_text(tmp_path, kind, data)


@pytest.mark.parametrize("kind", TEXTS)
@given(data=st.data())
@thorough
def test_a_thousand_packed_texts(tmp_path, kind, data):
    mutate_packed(tmp_path, kind, data)


@given(data=st.data())
@thorough
def test_a_thousand_parquet_files(tmp_path, data):
    mutate_parquet(tmp_path, data)


@given(data=st.data())
@thorough
def test_a_thousand_orc_files(tmp_path, data):
    mutate_orc(tmp_path, data)


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize(
    "change",
    [
        lambda raw: b"",
        lambda raw: b"\n\r\n\n",
        lambda raw: b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n"),
        lambda raw: raw.replace(b"\n", b"\r"),
        lambda raw: raw.replace(b"v1", b"v" * 3_000_000, 1),
        lambda raw: raw.replace(b"\n", b"\n\xff", 3),
        lambda raw: raw[: raw.find(b"\n") + 1] + raw,
    ],
    ids=["empty", "blank", "windows", "mac", "huge", "bytes", "header twice"],
)
def test_what_happens_most(tmp_path, kind, change):
    for packing in PACKED:
        check_text(tmp_path, kind, packing, change(TEXTS[kind]), None)
