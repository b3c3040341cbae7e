"""The floor under any program of pyarrow's: reading and parsing a log alone, or writing alone.

Both work in --processes processes of one thread each. `parse` reads blocks of whole lines of
the log and parses them to what the columns are: text, and integers. `write` writes a data set's
finished tables as Parquet again; reading them is not timed.

python benchmarks/rivals/arrow_floor.py --part parse --input day_*.tsv

Needs `pip install pyarrow`; nothing of this repository. The last line on stdout is JSON.
"""

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

COLUMNS = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
BLOCK_BYTES = 16 * 2**20
ROWS = 65536


def parse(task: tuple[str, int, int]) -> int:
    """Parses the lines that begin in a byte range of a file; returns their number."""
    path, start, end = task
    rows = 0
    with open(path, "rb") as file:
        file.seek(max(0, start - 1))
        if start:
            file.readline()
        while (left := end - file.tell()) > 0:
            block = file.read(min(left, BLOCK_BYTES)) + file.readline()
            rows += parse_block(block).num_rows
    return rows


def parse_block(block: bytes) -> pa.Table:
    kinds = {name: pa.int64() if name[0] == "I" else pa.string() for name in COLUMNS}
    return pa_csv.read_csv(
        pa.BufferReader(block),
        read_options=pa_csv.ReadOptions(
            column_names=COLUMNS, use_threads=False, block_size=len(block) + 1
        ),
        parse_options=pa_csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pa_csv.ConvertOptions(
            column_types={**kinds, "label": pa.int8()}, strings_can_be_null=False
        ),
    )


def ranges(files: list[str], size: int) -> list[tuple[str, int, int]]:
    """Byte ranges of about `size`."""
    return [
        (file, start, min(start + size, os.path.getsize(file)))
        for file in files
        for start in range(0, os.path.getsize(file), size)
    ]


def write(task: tuple[list[str], str]) -> tuple[int, float]:
    """Writes tables of Parquet files again; returns (rows, seconds of writing)."""
    paths, target = task
    rows, seconds = 0, 0.0
    writer = None
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(ROWS, use_threads=False):
            begun = time.perf_counter()
            if writer is None:
                writer = pq.ParquetWriter(target, batch.schema, compression="zstd")
            writer.write_batch(batch, row_group_size=ROWS)
            seconds += time.perf_counter() - begun
            rows += batch.num_rows
    if writer is not None:
        writer.close()
    return rows, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("parse", "write"), default="parse")
    parser.add_argument("--input", nargs="+", required=True, help="the log, or Parquet files")
    parser.add_argument("--output", type=Path, help="where to write")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    # Started afresh, so that no process begins with this one's memory.
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        pool.map(abs, range(options.processes))
        begun = time.perf_counter()
        if options.part == "parse":
            rows = sum(pool.map(parse, ranges(options.input, 2**26), chunksize=1))
            seconds = time.perf_counter() - begun
        else:
            options.output.mkdir(parents=True)
            shares = [options.input[i :: options.processes] for i in range(options.processes)]
            tasks = [(s, str(options.output / f"{i}.parquet")) for i, s in enumerate(shares) if s]
            found = pool.map(write, tasks, chunksize=1)
            rows, seconds = sum(r for r, _ in found), max(s for _, s in found)
    print(json.dumps({"rows": rows, "seconds": round(seconds, 3)}))


if __name__ == "__main__":
    main()
