"""The loader beside a bare Parquet scan of the same columns and Ray Data's iter_batches.

All read the same files, in one run, several times in turn; rows/s and ratios are printed. The scan
decodes columns and does nothing with them: it is the floor of anything that reads Parquet.

python benchmarks/loader.py [--data DIR] [--repeats 3] [--batch 4096] [--out FILE.json]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pyarrow as pa  # noqa: E402
import pyarrow.dataset as pads  # noqa: E402

from ctrdist.config.experiment import LoaderConfig  # noqa: E402
from ctrdist.data.loader import Loader  # noqa: E402
from ctrdist.data.manifest import Dataset, open_dataset  # noqa: E402
from ctrdist.data.rows import columns  # noqa: E402
from ctrdist.training.build import keep_freed_memory  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="", help="a preprocessed data set; empty: one is made")
    parser.add_argument("--rows", type=int, default=8_000_000, help="of the made data set")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--ray", type=int, default=1, help="0: leave Ray Data out")
    parser.add_argument("--out", default="", help="JSON file for the figures")
    args = parser.parse_args()
    keep_freed_memory()  # as a worker does
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or make_data(Path(folder), args.rows)
        dataset = open_dataset(data)
        rows = dataset.split("train").rows
        stored = LoaderConfig(batch_size=args.batch, shuffle_rows=0)
        mixed = LoaderConfig(batch_size=args.batch)
        subjects: dict[str, Callable[[], int]] = {
            "Parquet scan": lambda: scan(dataset),
            "loader, any order": lambda: drain(Loader(dataset, "train", mixed, shuffle=False)),
            "loader, stored order": lambda: drain(Loader(dataset, "train", stored)),
            "loader, shuffled": lambda: drain(Loader(dataset, "train", mixed)),
        }
        if args.ray:
            subjects["Ray Data iter_batches"] = ray_data(dataset, args.batch)
        times: dict[str, list[float]] = {name: [] for name in subjects}
        for repeat in range(args.repeats + 1):
            for name, run in subjects.items():
                begun = time.perf_counter()
                seen = run()
                if repeat:  # the first round warms caches and threads
                    times[name].append(time.perf_counter() - begun)
                assert seen == rows, (name, seen, rows)
    report(times, rows, args)


def scan(dataset: Dataset) -> int:
    """Decodes all columns that training reads, as fast as Arrow can."""
    files = [f"{dataset.path}/{file.path}" for file in dataset.split("train").files]
    # Little read-ahead: with the default of 16 batches of 4 files the scan fills gigabytes that the
    # system must clear first, and takes up to twice as long.
    scanner = pads.dataset(files).scanner(
        columns=columns(dataset.schema), batch_size=65536, batch_readahead=2, fragment_readahead=1
    )
    return sum(batch.num_rows for batch in scanner.to_batches())


def drain(loader: Loader) -> int:
    """Takes all batches, ready for the model."""
    return sum(len(batch.label_B) for batch in loader)


def ray_data(dataset: Dataset, batch: int) -> Callable[[], int]:
    """The same columns through Ray Data, as NumPy arrays."""
    import logging

    import ray

    ray.init(logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    files = [f"{dataset.path}/{file.path}" for file in dataset.split("train").files]

    def run() -> int:
        read = ray.data.read_parquet(files, columns=columns(dataset.schema))
        return sum(
            len(b[dataset.schema.label])
            for b in read.iter_batches(batch_size=batch, batch_format="numpy")
        )

    return run


def make_data(folder: Path, rows: int) -> str:
    """A Criteo-shaped log, preprocessed."""
    import ray

    from cluster.session import connect
    from ctrdist.config.parse import parse
    from preprocessing.config.settings import PreprocessConfig
    from preprocessing.config.synthetic import LogConfig
    from preprocessing.pipeline import preprocess
    from preprocessing.sources.synthetic import write_log

    write_log(LogConfig(output=str(folder / "log"), rows=rows, files=8, seed=1, overwrite=True))
    inputs = json.dumps(sorted(str(p) for p in (folder / "log").glob("*.tsv")))
    preset = str(ROOT / "jobs/configs/data/criteo.yaml")
    argv = ["--config", preset, "--input", inputs, "--output", str(folder / "data")]
    connect(2)
    preprocess(parse(PreprocessConfig, argv)[0])
    ray.shutdown()
    return str(folder / "data")


def report(times: dict[str, list[float]], rows: int, args: argparse.Namespace) -> None:
    """The table, and the figures as JSON."""
    floor = statistics.median(times["Parquet scan"])
    print(f"{rows:,} rows, batch {args.batch}, {args.repeats} repeats, pyarrow {pa.__version__}")
    print(f"{'':24}{'rows/s':>12}{'least s':>9}{'most s':>9}{'of the scan':>13}")
    figures = {}
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        figures[name] = {"seconds": seconds, "rows_per_s": rows / middle, "ratio": floor / middle}
        print(
            f"{name:24}{rows / middle:12,.0f}{min(seconds):9.2f}{max(seconds):9.2f}"
            f"{100 * floor / middle:12.0f}%"
        )
    if args.out:
        Path(args.out).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
