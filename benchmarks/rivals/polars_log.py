"""The Criteo preset's work in one Polars script, as an expert would write it by hand.

Four variants. In memory: `memory` reads categories as Categorical, whose physical codes are counted
and gathered; `memory-text` reads text, groups it and replaces it. With the streaming engine, in
memory that does not grow with the rows: `streaming` parses the log twice and goes from text to ids;
`streaming-codes` parses it once, into an IPC file of codes, and goes on from there.

python benchmarks/rivals/polars_log.py --variant memory --input day_*.tsv --output DIR

Needs `pip install polars`; nothing of this repository. The last line on stdout is JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

INTEGERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]
FRACTIONS = (0.75, 0.05)
MIN_COUNT = 4
UNKNOWN, FIRST = 1, 2
"""Ids of an unknown value and of the most frequent one."""
PARQUET = {
    "compression": "zstd",
    "compression_level": 1,  # pyarrow's default, so that both compress alike
    "row_group_size": 65536,
    "statistics": False,  # faster, and nobody reads them here
}
DICTIONARIES = {name: pl.Categories(name) for name in CATEGORIES}
_ALIVE = [pl.Series([], dtype=pl.Categorical(c)) for c in DICTIONARIES.values()]
"""A dictionary is emptied when the last column of its kind is gone; codes live on without one."""


class Run:
    """Where to, and how long each part took."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.begun = self._last = time.perf_counter()
        self.parts: dict[str, float] = {}
        (output / "vocabulary").mkdir(parents=True, exist_ok=True)

    def lap(self, name: str) -> None:
        """A part is done."""
        now = time.perf_counter()
        self.parts[name], self._last = round(now - self._last, 3), now

    def splits(self, rows: int) -> list[tuple[Path, int, int]]:
        """(file, first row, rows) of train, valid and test."""
        edges = [0, round(rows * FRACTIONS[0]), round(rows * sum(FRACTIONS)), rows]
        names = ("train", "valid", "test")
        pairs = zip(names, edges, edges[1:], strict=False)
        return [(self.output / f"{name}.parquet", a, b - a) for name, a, b in pairs if b > a]

    def vocabulary(self, name: str, table: pl.DataFrame) -> None:
        """Writes a column's."""
        table.write_parquet(self.output / f"vocabulary/{name}.parquet")


def scan(files: list[str], categories: Callable[[str], pl.DataType]) -> pl.LazyFrame:
    schema = {"label": pl.Int8, **dict.fromkeys(INTEGERS, pl.Int64)}
    return pl.scan_csv(
        files,
        separator="\t",
        has_header=False,
        quote_char=None,
        schema={**schema, **{name: categories(name) for name in CATEGORIES}},
        empty_string_is_null=False,
    )


def text(name: str) -> pl.DataType:
    return pl.String()


def categorical(name: str) -> pl.DataType:
    return pl.Categorical(DICTIONARIES[name])


def logarithm(name: str) -> pl.Expr:
    value = pl.col(name)
    return value.sign().cast(pl.Float64) * value.abs().cast(pl.Float64).log1p()


def moments(train: pl.LazyFrame) -> pl.LazyFrame:
    """One row: mean and deviation of each integer's logarithm."""
    means = [logarithm(name).mean().name.suffix("_mean") for name in INTEGERS]
    return train.select(
        *means, *(logarithm(name).std(ddof=0).name.suffix("_deviation") for name in INTEGERS)
    )


def numbers(found: pl.DataFrame) -> list[pl.Expr]:
    """Label and standardised integers as they are written."""
    row = found.row(0, named=True)
    scaled = [
        ((logarithm(name) - row[f"{name}_mean"]) / row[f"{name}_deviation"])
        .fill_null(0.0)
        .cast(pl.Float32)
        .alias(name)
        for name in INTEGERS
    ]
    return [pl.col("label").cast(pl.Float32), *scaled]


def numbered(counts: pl.LazyFrame, value: str) -> pl.LazyFrame:
    """Frequent values by falling count, ties by value, with ids."""
    kept = counts.filter(pl.col("len") >= MIN_COUNT)
    kept = kept.sort(["len", value], descending=[True, False]).with_row_index("id", offset=FIRST)
    return kept.with_columns(pl.col("id").cast(pl.Int32), pl.col("len").cast(pl.Int64))


def from_text(train: pl.LazyFrame, run: Run, engine: str) -> list[pl.Expr]:
    """The columns to write, for a log whose categories are text."""
    counted = [numbered(train.group_by(name).len(), name) for name in CATEGORIES]
    found, *tables = pl.collect_all([moments(train), *counted], engine=engine)
    written = numbers(found)
    for name, table in zip(CATEGORIES, tables, strict=True):
        run.vocabulary(name, table.select(value=name, id="id", count="len"))
        written.append(
            pl.col(name).replace_strict(
                table[name], table["id"], default=UNKNOWN, return_dtype=pl.Int32
            )
        )
    return written


def from_codes(log: pl.LazyFrame, train: pl.LazyFrame, run: Run, engine: str) -> list[pl.Expr]:
    """What is written, for a log whose categories are codes; null is the empty text."""
    counted = [train.group_by(name).len() for name in CATEGORIES]
    queries = [moments(train), log.select(pl.col(CATEGORIES).max()), *counted]
    found, highest, *tables = pl.collect_all(queries, engine=engine)
    written = numbers(found)
    for name, counts in zip(CATEGORIES, tables, strict=True):
        value = pl.col(name).cat.to(categorical(name)).cast(pl.String).fill_null("")
        table = numbered(counts.lazy().with_columns(value=value), "value").collect()
        run.vocabulary(name, table.select("value", "id", count="len"))
        null = 1 + (highest[name][0] or 0)
        ids = np.full(null + 1, UNKNOWN, np.int32)
        ids[table[name].fill_null(null).to_numpy()] = table["id"].to_numpy()
        written.append(_gathered(name, pl.Series(ids), null))
    return written


def _gathered(name: str, ids: pl.Series, null: int) -> pl.Expr:
    return pl.col(name).map_batches(
        lambda codes: ids.gather(codes.fill_null(null)),
        return_dtype=pl.Int32,
        is_elementwise=True,
    )


def memory(files: list[str], run: Run, *, coded: bool) -> int:
    """Everything in one frame; returns the number of rows."""
    frame = scan(files, categorical if coded else text).collect(engine="in-memory")
    run.lap("parse")
    if coded:
        frame = frame.with_columns(pl.col(CATEGORIES).to_physical())
    rows, log = frame.height, frame.lazy()
    train = log.head(run.splits(rows)[0][2])
    written = (
        from_codes(log, train, run, "in-memory") if coded else from_text(train, run, "in-memory")
    )
    run.lap("learn")
    frame = log.select(written).collect(engine="in-memory")
    run.lap("encode")
    for path, first, count in run.splits(rows):
        frame.slice(first, count).write_parquet(path, **PARQUET)
    run.lap("write")
    return rows


def streaming(files: list[str], run: Run, *, coded: bool) -> int:
    """In batches, twice over the log or over a file of its codes; returns the number of rows."""
    log, codes = scan(files, categorical if coded else text), run.output / "codes.arrow"
    if coded:
        log.with_columns(pl.col(CATEGORIES).to_physical()).sink_ipc(codes, engine="streaming")
        log = pl.scan_ipc(codes)
        run.lap("parse")
    rows = log.select(pl.len()).collect(engine="streaming").item()
    run.lap("count rows")
    train = log.head(run.splits(rows)[0][2])
    written = (
        from_codes(log, train, run, "streaming") if coded else from_text(train, run, "streaming")
    )
    run.lap("learn")
    for path, first, count in run.splits(rows):  # one after the other is the faster
        log.slice(first, count).select(written).sink_parquet(path, engine="streaming", **PARQUET)
    run.lap("encode and write")
    codes.unlink(missing_ok=True)
    return rows


VARIANTS = {
    "memory": (memory, True),
    "memory-text": (memory, False),
    "streaming": (streaming, False),
    "streaming-codes": (streaming, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=VARIANTS, default="memory")
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    run = Run(options.output)
    work, coded = VARIANTS[options.variant]
    rows = work(options.input, run, coded=coded)
    seconds = time.perf_counter() - run.begun
    print(json.dumps({"rows": rows, "seconds": round(seconds, 3), "parts": run.parts}))


if __name__ == "__main__":
    main()
