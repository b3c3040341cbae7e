"""The programs that benchmarks/preprocess.py measures do our work: their rows are ours.

An interpreter that has Polars, which is no dependency: $CTRDIST_RIVALS, or this one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.measuring.same_rows import differences
from preprocessing.config.synthetic import LogConfig
from preprocessing.sources.synthetic import write_log

ROOT = Path(__file__).resolve().parents[2]
ROWS = 30_000
"""Enough that rare values, unknown in training or not, are there."""


@pytest.fixture(scope="module")
def polars() -> str:
    python = os.environ.get("CTRDIST_RIVALS", sys.executable)
    if subprocess.run([python, "-c", "import polars"], capture_output=True).returncode:
        pytest.skip("Polars is not installed; set CTRDIST_RIVALS to a Python that has it")
    return python


@pytest.fixture(scope="module")
def log(tmp_path_factory, polars) -> list[str]:
    folder = tmp_path_factory.mktemp("log")
    write_log(LogConfig(output=str(folder), rows=ROWS, files=3))
    return [str(folder / f"day_{index}.tsv") for index in range(3)]


@pytest.fixture(scope="module")
def ours(tmp_path_factory, log) -> Path:
    output = tmp_path_factory.mktemp("ours") / "data"
    preset = str(ROOT / "jobs/configs/data/criteo.yaml")
    job = [sys.executable, str(ROOT / "jobs/preprocess.py"), "--config", preset, "--workers", "2"]
    run([*job, "--output", str(output), "--input", *log])
    return output


def run(command: list[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("variant", ["memory", "memory-text", "streaming", "streaming-codes"])
def test_polars_gives_our_rows_and_vocabularies(polars, log, ours, tmp_path, variant):
    script = str(ROOT / "benchmarks/rivals/polars_log.py")
    run([polars, script, "--variant", variant, "--output", str(tmp_path), "--input", *log])
    assert differences(ours, tmp_path) == []
    for file in sorted((ours / "vocabulary").glob("*.parquet")):
        expected, found = (
            pq.read_table(folder / "vocabulary" / file.name).to_pydict()
            for folder in (ours, tmp_path)
        )
        assert found == expected, file.name
