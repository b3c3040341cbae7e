"""Seconds from a command to its end, by stage, for small and large logs: preprocessing, training.

For each number of rows a log is made, preprocessed and trained on without a preset, once with each
checkout of the code. The first step is the first one that the run's events.jsonl has. With
--most-steps a run that would take hours ends after so many steps, which is said in the table.

python benchmarks/first_minutes.py --rows 1000 10000 1000000 --code BEFORE . --model dlf
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Reads the command line, runs everything and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 10_000, 1_000_000])
    parser.add_argument("--code", nargs="+", default=["."], help="checkouts, in turn")
    parser.add_argument("--model", default="dlf")
    parser.add_argument("--most-steps", type=int, default=0, help="bound of training; 0: none")
    given = parser.parse_args()
    print("| rows | code | preprocessing | run begins | first step | training ends | epochs |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for rows in given.rows:
            log = Path(folder) / f"log-{rows}"
            run(ROOT, "jobs/make_log.py", "--rows", str(rows), "--output", str(log))
            for number, code in enumerate(given.code):
                work = Path(folder) / f"{rows}-{number}"
                cells = measure(Path(code).resolve(), log, work, given.model, given.most_steps)
                print(f"| {rows:,} | {code} | {' | '.join(cells)} |", flush=True)


def measure(code: Path, log: Path, work: Path, model: str, most_steps: int) -> list[str]:
    """Preprocesses and trains; gives the cells of the table."""
    preset = str(code / "jobs/configs/data/criteo.yaml")
    begun = time.time()
    run(
        code,
        "jobs/preprocess.py",
        *("--config", preset, "--input", str(log / "day_*.tsv"), "--output", str(work / "data")),
    )
    preprocessed = time.time() - begun
    begun = time.time()
    run(
        code,
        f"jobs/train_{model}.py",
        *("--data", str(work / "data"), "--runs", str(work / "runs"), "--run-name", "first"),
        *("--tracking.every_steps", "1", "--train.max_steps", str(most_steps)),
    )
    ended = time.time() - begun
    lines = (work / "runs/first/events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    started = min(event["time"] for event in events) / 1000 - begun
    steps = [e["time"] for e in events if e["kind"] == "metrics" and (e["step"] or 0) >= 1]
    first = f"{min(steps) / 1000 - begun:.1f}" if steps else "none"
    epochs = len({e["step"] for e in events if "auc" in e["values"] or "valid/auc" in e["values"]})
    bound = f" ({most_steps} steps)" if most_steps else ""
    return [f"{preprocessed:.1f}", f"{started:.1f}", first, f"{ended:.1f}{bound}", str(epochs)]


def run(code: Path, *command: str) -> None:
    """Runs a job of a checkout, and ends the program with its output if it fails."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=code,
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")


if __name__ == "__main__":
    main()
