"""Scanning raw text to codes and numbers on one core, beside pyarrow and beside the bare memory.

All read the same blocks of a Criteo-like log from memory, in turn, several times. Printed are
seconds of CPU per million rows, and how many times as long as our scan each takes.

python benchmarks/scan.py [--input FILE …] [--rows 1000000] [--repeats 5] [--out FILE.json]
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.compute as pc  # noqa: E402

from ctrdist.config.parse import parse  # noqa: E402
from preprocessing.config.settings import PreprocessConfig, SplitConfig  # noqa: E402
from preprocessing.config.synthetic import LogConfig  # noqa: E402
from preprocessing.scan.scanner import Scanner  # noqa: E402
from preprocessing.sources.delimited import DelimitedBlock, parse_lines  # noqa: E402
from preprocessing.sources.raw_block import TableConfig  # noqa: E402
from preprocessing.sources.shards import ByteRange  # noqa: E402
from preprocessing.sources.synthetic import write_log  # noqa: E402
from preprocessing.sources.text_blocks import TextBlock, read_text  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", nargs="*", default=[], help="Criteo's TSV; none: a log is made")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the made log")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default="", help="JSON file for the figures")
    args = parser.parse_args()
    pa.set_cpu_count(1)
    config, _ = parse(PreprocessConfig, ["--config", str(ROOT / "jobs/configs/data/criteo.yaml")])
    with tempfile.TemporaryDirectory() as folder:
        if not args.input:
            write_log(LogConfig(output=folder, rows=args.rows, files=1, seed=1, overwrite=True))
        files = args.input or sorted(str(path) for path in Path(folder).glob("*.tsv"))
        blocks = [block for file in files for block in read_text(whole(file))]
    rows = sum(block.raw.count(b"\n") for block in blocks)
    subjects = all_subjects(config, blocks)
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for repeat in range(args.repeats + 1):
        for name, run in subjects.items():
            begun = time.process_time()
            run()
            if repeat:  # the first round warms the caches
                times[name].append((time.process_time() - begun) / rows * 1e6)
    report(times, rows, blocks, args)


def whole(path: str) -> ByteRange:
    """All of a file."""
    return ByteRange(url=path, name=path, start=0, end=2**62)


def all_subjects(
    config: PreprocessConfig, blocks: Sequence[TextBlock]
) -> dict[str, Callable[[], None]]:
    """What is measured, by name; our scan first."""
    hashed = replace(config, split=SplitConfig(by="hash"))
    buckets = replace(config, numeric_as="both")
    return {
        "our scan": lambda: scan(config, blocks),
        "… of a split by hash": lambda: scan(hashed, blocks),
        "… with buckets of numbers": lambda: scan(buckets, blocks),
        "… of the categories alone": lambda: scan(only(config, "categorical"), blocks),
        "… of the numbers alone": lambda: scan(only(config, "numeric"), blocks),
        "… of one category alone": lambda: scan(only(config, "categorical", most=1), blocks),
        "bytes copied": lambda: copy(blocks),
        "line ends counted": lambda: count(blocks),
        "pyarrow: parse to texts": lambda: arrow(config, blocks, encode=False),
        "pyarrow: and to codes, numbers": lambda: arrow(config, blocks, encode=True),
    }


def only(config: PreprocessConfig, role: str, most: int = 100) -> PreprocessConfig:
    """The data set with the label and columns of one role; the others are passed over."""
    kept = [c.name for c in config.columns if c.role == role][:most]
    return replace(
        config,
        columns=[
            c if c.role == "label" or c.name in kept else replace(c, role="ignore")
            for c in config.columns
        ],
    )


def scan(config: PreprocessConfig, blocks: Sequence[TextBlock]) -> None:
    """The fast scan, as of one shard."""
    scanner, names = Scanner(config), [c.name for c in config.columns]
    table = TableConfig(config.format, config.columns, names)
    for block in blocks:
        raw = DelimitedBlock(block.byte_range, block.raw, 0, 0, table, names)
        assert scanner.scan(raw) is not None


def copy(blocks: Sequence[TextBlock]) -> None:
    """One pass over the memory, and one of writing."""
    for block in blocks:
        np.frombuffer(block.raw, np.uint8).copy()


def count(blocks: Sequence[TextBlock]) -> None:
    """One pass over the memory."""
    for block in blocks:
        block.raw.count(b"\n")


def arrow(config: PreprocessConfig, blocks: Sequence[TextBlock], *, encode: bool) -> None:
    """The parser alone, or also codes within each block and numbers, which is less than we do."""
    names = [c.name for c in config.columns]
    for block in blocks:
        table = parse_lines(block.raw, config.format, names, names)
        for column in config.columns if encode else []:
            values = table.column(column.name).combine_chunks()
            if column.role == "categorical":
                values.dictionary_encode()
            else:
                missing = pc.equal(values, "")
                pc.if_else(missing, None, values).cast(pa.float64())


def report(
    times: dict[str, list[float]],
    rows: int,
    blocks: Sequence[TextBlock],
    args: argparse.Namespace,
) -> None:
    """The table, and the figures as JSON."""
    ours = min(times["our scan"])
    size = sum(len(block.raw) for block in blocks)
    print(f"{rows:,} rows, {size / rows:.0f} bytes each, {args.repeats} repeats, one core")
    print(f"{'seconds of CPU per million rows':34}{'least':>8}{'most':>8}{'of our scan':>13}")
    figures = {}
    for name, seconds in times.items():
        figures[name] = {"seconds": seconds, "ratio": min(seconds) / ours}
        print(f"{name:34}{min(seconds):8.3f}{max(seconds):8.3f}{min(seconds) / ours:12.2f}×")
    if args.out:
        Path(args.out).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
