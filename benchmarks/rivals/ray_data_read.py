"""Reading and parsing a log by Ray Data, beside Ray tasks that do the same by hand.

Both give the same: the number of rows and of distinct values, by block, of all 26 categories.
`data` is ray.data.read_csv and map_batches; `tasks` gives each task a byte range, and as many run
at a time as there are CPUs. Ray's start is not in `seconds`.

python benchmarks/rivals/ray_data_read.py --way data --input day_*.tsv

Needs `pip install "ray[data]"`. The last line on stdout is JSON.
"""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import ray

from benchmarks.rivals.arrow_floor import BLOCK_BYTES, COLUMNS, parse_block, ranges


def counted(table: pa.Table) -> pa.Table:
    """One row: the block's rows, and its distinct values of all categories."""
    distinct = sum(
        len(pc.unique(table.column(name))) for name in table.column_names if name[0] == "C"
    )
    return pa.table({"rows": [table.num_rows], "distinct": [distinct]})


def by_data(files: list[str]) -> int:
    kinds = {name: pa.int64() if name[0] == "I" else pa.string() for name in COLUMNS}
    blocks = ray.data.read_csv(
        files,
        parse_options=pa_csv.ParseOptions(delimiter="\t", quote_char=False),
        read_options=pa_csv.ReadOptions(column_names=COLUMNS, block_size=BLOCK_BYTES),
        convert_options=pa_csv.ConvertOptions(
            column_types={**kinds, "label": pa.int8()}, strings_can_be_null=False
        ),
    )
    found = blocks.map_batches(counted, batch_size=None, batch_format="pyarrow").take_all()
    return sum(row["rows"] for row in found)


def by_tasks(files: list[str]) -> int:
    @ray.remote(num_cpus=1)
    def task(path: str, start: int, end: int) -> int:
        rows = 0
        with open(path, "rb") as file:
            file.seek(max(0, start - 1))
            if start:
                file.readline()
            while (left := end - file.tell()) > 0:
                block = file.read(min(left, BLOCK_BYTES)) + file.readline()
                rows += counted(parse_block(block)).column("rows")[0].as_py()
        return rows

    return sum(ray.get([task.remote(*one) for one in ranges(files, 2**26)]))


def warm() -> int:
    """Lets a worker start and import Arrow."""
    time.sleep(0.2)
    return pa.cpu_count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=("data", "tasks"), default="data")
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    root = str(Path(__file__).resolve().parents[2])
    ray.init(
        num_cpus=options.processes,
        include_dashboard=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    ray.get([ray.remote(warm).remote() for _ in range(2 * options.processes)])
    ray.data.DataContext.get_current().enable_progress_bars = False
    begun = time.perf_counter()
    rows = {"data": by_data, "tasks": by_tasks}[options.way]([str(f) for f in options.input])
    print(json.dumps({"rows": rows, "seconds": round(time.perf_counter() - begun, 3)}))


if __name__ == "__main__":
    main()
