"""Preprocessing beside other programs that do the same work: time, memory, bytes, equal rows.

The log is the demo's, in Criteo's shape; the work is that of jobs/configs/data/criteo.yaml. All
cases take turns on the same cores, with the log in the page cache; of several runs of a case the
fastest counts for time, the largest for memory. Slow ones run on fewer rows. Every data set is
compared with ours, row by row (PySpark's in any order).

python benchmarks/preprocess.py --rows 2000000 10000000 --python polars=PATH pyspark=PATH

Rivals are no dependencies of ours. For each give the interpreter of an environment that has it:
  python -m venv rivals && rivals/bin/pip install polars pyspark pandas pyarrow    (and Java 17)
Without --python, this interpreter is asked; what it lacks is skipped.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring.processes import Usage, measured  # noqa: E402
from benchmarks.measuring.same_rows import differences  # noqa: E402
from preprocessing.config.synthetic import LogConfig  # noqa: E402
from preprocessing.sources.synthetic import TRUTH, write_log  # noqa: E402

OURS = "ours"
RIVALS = ROOT / "benchmarks" / "rivals"
_MIB = 2**20


@dataclass(frozen=True)
class Case:
    """A program."""

    name: str
    command: Callable[[str, list[str], Path, Path, int], list[str]]
    """(interpreter, files of the log, its output, our data set, cores) → the command."""
    package: str
    """Which its interpreter must have."""
    small: bool = False
    """Whether it is too slow for the large logs."""
    compared: str = ""
    """ordered, any order, or nothing: how its rows are compared with ours."""


@dataclass
class Result:
    """Time and memory of a case for a log; memory and bytes in MiB, times in seconds."""

    rows: int
    case: str
    seconds: float = 0.0
    """Its own figure: without the start of an interpreter or a cluster."""
    wall: float = 0.0
    """From the start of the process to its end."""
    cpu: float = 0.0
    peak_process: float = 0.0
    peak_process_name: str = ""
    peak_anonymous: float = 0.0
    peak_sum: float = 0.0
    written: float = 0.0
    """To disks in all."""
    output: float = 0.0
    """Bytes that lie there at the end."""
    runs: list[dict[str, float]] = field(default_factory=list)
    equal: str = ""
    """yes, or the first difference from ours."""
    failed: str = ""
    parts: dict[str, float] = field(default_factory=dict)

    def add(self, usage: Usage, told: dict, output: float) -> None:
        """One more run."""
        run = {"seconds": told["seconds"], "wall": usage.wall, "cpu": usage.cpu}
        if not self.runs or told["seconds"] < self.seconds:
            self.seconds, self.parts = told["seconds"], told.get("parts", {})
        self.wall = min([usage.wall, *(r["wall"] for r in self.runs)])
        self.cpu = min([usage.cpu, *(r["cpu"] for r in self.runs)])
        if usage.peak_process > self.peak_process:
            self.peak_process, self.peak_process_name = usage.peak_process, usage.peak_process_name
        self.peak_anonymous = max(self.peak_anonymous, usage.peak_anonymous)
        self.peak_sum = max(self.peak_sum, usage.peak_sum)
        self.written, self.output = max(self.written, usage.written), output
        self.runs.append(run)


def ours(python: str, files: list[str], output: Path, _data: Path, cores: int) -> list[str]:
    preset = ROOT / "jobs/configs/data/criteo.yaml"
    job = [python, str(ROOT / "jobs/preprocess.py"), "--config", str(preset), "--json"]
    return [*job, "--workers", str(cores), "--output", str(output), "--input", *files]


def rival(script: str, *options: str, output: bool = True) -> Callable[..., list[str]]:
    """The command of a program that has --input and perhaps --output."""

    def command(python: str, files: list[str], target: Path, _data: Path, cores: int) -> list[str]:
        filled = [option.replace("CORES", str(cores)) for option in options]
        place = ["--output", str(target)] if output else []
        return [python, str(RIVALS / script), *filled, *place, "--input", *files]

    return command


def write_floor(python: str, _files: list[str], output: Path, data: Path, cores: int) -> list[str]:
    parts = [str(file) for file in sorted(data.glob("*/part-*.parquet"))]
    return rival("arrow_floor.py", "--part", "write", "--processes", "CORES")(
        python, parts, output, data, cores
    )


_POLARS = ("memory", "memory-text", "streaming", "streaming-codes")
CASES = [
    Case(OURS, ours, ""),
    *(
        Case(f"polars {v}", rival("polars_log.py", "--variant", v), "polars", compared="ordered")
        for v in _POLARS
    ),
    Case(
        "pyspark",
        rival("pyspark_log.py", "--threads", "CORES"),
        "pyspark",
        compared="any order",
    ),
    Case(
        "floor: parse",
        rival("arrow_floor.py", "--part", "parse", "--processes", "CORES", output=False),
        "pyarrow",
    ),
    Case("floor: write", write_floor, "pyarrow"),
    Case("pandas", rival("pandas_log.py"), "pandas", small=True, compared="ordered"),
    *(
        Case(
            f"ray {way}: parse",
            rival("ray_data_read.py", "--way", way, "--processes", "CORES", output=False),
            "ray",
            small=True,
        )
        for way in ("data", "tasks")
    ),
]


def made(folder: Path, rows: int, files: int) -> list[str]:
    """Files of a log of so many rows, made where they are not there, and read once."""
    target = folder / f"log-{rows}-{files}"
    if not (target / TRUTH).exists():
        print(f"making a log of {rows:,} rows …", file=sys.stderr, flush=True)
        write_log(LogConfig(output=str(target), rows=rows, files=files, overwrite=True))
    names = [str(target / f"day_{index}.tsv") for index in range(files)]
    for name in names:
        with open(name, "rb", buffering=0) as file:
            while file.read(8 * _MIB):
                pass
    return names


def available(cases: list[Case], pythons: dict[str, str]) -> tuple[list[Case], dict[str, str]]:
    """(cases that can run here, package → version); says what is left out."""
    versions = {"python": platform.python_version()}
    for package in dict.fromkeys(["pyarrow", "ray", *(case.package for case in cases)]):
        if package:
            code = f"from importlib.metadata import version as v; print(v({package!r}))"
            python = pythons.get(package, sys.executable)
            found = subprocess.run([python, "-c", code], capture_output=True, text=True)
            if found.returncode == 0:
                versions[package] = found.stdout.strip()
            else:
                print(
                    f"skipped: {package} is not installed; in an environment of its own: "
                    f"pip install {package}, and give --python {package}=PATH/bin/python",
                    file=sys.stderr,
                )
    if "pyspark" in versions and not shutil.which("java"):
        print("skipped: pyspark wants Java 17 (openjdk-17-jre-headless)", file=sys.stderr)
        del versions["pyspark"]
    return [case for case in cases if not case.package or case.package in versions], versions


def compare(
    cases: list[Case], rows: int, files: list[str], work: Path, options: argparse.Namespace
) -> list[Result]:
    """Runs all cases on one log, in turns; ours must be the first."""
    results = {case.name: Result(rows, case.name) for case in cases}
    data = work / "out" / OURS
    shutil.rmtree(work / "out", ignore_errors=True)
    for turn in range(options.repeats):
        for case in cases:
            result = results[case.name]
            if result.failed or (turn and result.runs[0]["wall"] > options.once_above):
                continue
            output = work / "out" / case.name.replace(" ", "-").replace(":", "")
            shutil.rmtree(output, ignore_errors=True)
            output.parent.mkdir(parents=True, exist_ok=True)
            python = options.pythons.get(case.package, sys.executable)
            usage = measured(
                case.command(python, files, output, data, options.cores), environment()
            )
            told = last_json(usage.output)
            if usage.code or told.get("rows") != rows:
                lines = (usage.errors.strip() or usage.output.strip() or "no message").splitlines()
                result.failed = f"exit code {usage.code}, {told.get('rows')} rows: {lines[-1]}"
                print(f"{rows:,} rows, {case.name}: FAILED {result.failed}", file=sys.stderr)
                continue
            result.add(usage, told, size_of(output))
            if case.compared and turn == 0:
                unequal = differences(data, output, ordered=case.compared == "ordered")
                result.equal = unequal[0] if unequal else "yes"
            if case.name != OURS:
                shutil.rmtree(output, ignore_errors=True)
            print(
                f"{rows:,} rows, {case.name}: {told['seconds']:.1f} s, {usage.wall:.1f} s in all",
                file=sys.stderr,
                flush=True,
            )
    return list(results.values())


def environment() -> dict[str, str]:
    """That of the commands."""
    cores = str(len(os.sched_getaffinity(0)))
    return {**os.environ, "PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": cores}


def last_json(text: str) -> dict:
    """The last line, where it is a JSON object."""
    lines = text.strip().splitlines()
    return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}


def size_of(folder: Path) -> float:
    """MiB of the files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / _MIB


def show(results: list[Result]) -> None:
    """A table for one log; the ratios are another's time over ours."""
    here = [result for result in results if not result.failed]
    base = next((result for result in here if result.case == OURS), None)
    rows = results[0].rows
    print(f"\n{rows:,} rows")
    print(
        f"{'case':24}{'s':>8}{'in all':>8}{'rows/s':>11}{'÷ ours':>8}{'in all':>8}{'cpu s':>8}"
        f"{'process MiB':>13}{'own MiB':>9}{'sum MiB':>9}{'output':>8}{'written':>9}  equal"
    )
    for r in here:
        alone = f"{r.seconds / base.seconds:.2f}" if base else "–"
        whole = f"{r.wall / base.wall:.2f}" if base else "–"
        print(
            f"{r.case:24}{r.seconds:8.1f}{r.wall:8.1f}{rows / r.seconds:11,.0f}{alone:>8}"
            f"{whole:>8}{r.cpu:8.1f}{r.peak_process:13,.0f}{r.peak_anonymous:9,.0f}"
            f"{r.peak_sum:9,.0f}{r.output:8,.0f}{r.written:9,.0f}  {r.equal or '–'}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000_000])
    parser.add_argument("--small-rows", type=int, default=1_000_000, help="for the slow; 0: none")
    parser.add_argument("--files", type=int, default=4, help="of the log")
    parser.add_argument("--cases", nargs="+", default=[c.name for c in CASES])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--once-above", type=float, default=300.0, help="seconds; not repeated")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--python", nargs="*", default=[], metavar="PACKAGE=PATH")
    parser.add_argument("--work", default="", help="where logs are kept; empty: a temporary folder")
    parser.add_argument("--json", action="store_true", help="the last line on stdout is JSON")
    options = parser.parse_args()
    unknown = set(options.cases) - {case.name for case in CASES}
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(c.name for c in CASES)}")
    options.pythons = dict(pair.split("=", 1) for pair in options.python)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    chosen = [case for case in CASES if case.name == OURS or case.name in options.cases]
    cases, versions = available(chosen, options.pythons)
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    tables: list[list[Result]] = []
    with tempfile.TemporaryDirectory(prefix="ctrdist-bench-") as temporary:
        work = Path(options.work or temporary)
        small = [case for case in cases if case.small]
        if small and options.small_rows:
            log = made(work, options.small_rows, options.files)
            tables.append(compare([cases[0], *small], options.small_rows, log, work, options))
        for rows in options.rows:
            log = made(work, rows, options.files)
            large = [case for case in cases if not case.small]
            tables.append(compare(large, rows, log, work, options))
        shutil.rmtree(work / "out", ignore_errors=True)
    for table in tables:
        show(table)
    results = [result for table in tables for result in table]
    if options.json:
        print(json.dumps({"versions": versions, "results": [asdict(r) for r in results]}))
    return int(any(result.failed or result.equal not in ("", "yes") for result in results))


if __name__ == "__main__":
    sys.exit(main())
