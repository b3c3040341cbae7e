"""From a stranger's log to a trained model with no hand on the YAML, for many shapes of logs.

python benchmarks/describe.py [--shapes avazu,kkbox] [--real DIR] [--rows 3000]

For each log the commands are run that jobs/describe.py prints: preprocessing, then training of a
few steps. Prints a Markdown table of the guesses that were wrong, and of what the data set became.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring.log_shapes import SHAPES, Truth, make

ROOT = Path(__file__).resolve().parents[1]

CONTEXT = (
    "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city",
)  # fmt: skip
REAL = {
    "criteo/dac_first10000.tsv": Truth(
        {"label": "label"}
        | {f"c{i}": "numeric" for i in range(2, 15)}
        | {f"c{i}": "categorical" for i in range(15, 41)},
        "hash",
    ),
    "frappe": Truth(
        {"label": "label", "user": "user"} | dict.fromkeys(CONTEXT, "categorical"),
        "file",
    ),
    "movielens-1m/ratings.first487650.dat.gz": Truth(
        {"user": "user", "c2": "categorical", "label": "label", "time": "timestamp"},
        "time",
        settings={"label": {"threshold": 4}},
    ),
}
REAL["criteo/dac_80k_hash20.tsv.gz"] = REAL["criteo/dac_first10000.tsv"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--real", default="", help="folder of real logs")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    print("| log | wrong guesses | doubts | rows (train, valid, test) | left out | test AUC | s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in filter(None, options.shapes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            truth = make(name, Path(folder, "log"), options.rows)
            print(row(name, folder, "log", truth, options.steps), flush=True)
    for path, truth in REAL.items() if options.real else ():
        with tempfile.TemporaryDirectory() as folder:
            log = str(Path(options.real, path).resolve())
            print(row(path, folder, log, truth, options.steps), flush=True)


def row(name: str, folder: str, log: str, truth: Truth, steps: int) -> str:
    """Runs the commands in a folder; returns a row of the table."""
    start = time.monotonic()
    label = ["--label", truth.label] if truth.label else []
    drafted, told = run(
        ["jobs/describe.py", "--input", log, "--output", "draft.yaml", *label], folder
    )
    preprocess, train = told.strip().splitlines()[-2:]
    data, _ = run(preprocess.split()[1:], folder)
    result, _ = run([*train.split()[1:], "--train.max_steps", str(steps)], folder)
    rows = ", ".join(f"{split['rows']:,}" for split in data["splits"].values())
    auc = f"{result['test']['auc']:.3f}"
    cells = [name, wrong(drafted, truth), str(len(drafted["doubts"])), rows]
    cells += [str(data["quarantined"]), auc, f"{time.monotonic() - start:.0f}"]
    return f"| {' | '.join(cells)} |"


def run(command: list[str], folder: str) -> tuple[dict[str, Any], str]:
    """Runs a job with --json in a folder; returns its results and what it said on stderr."""
    command = [sys.executable, str(ROOT / command[0]), *command[1:], "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def wrong(drafted: dict[str, Any], truth: Truth) -> str:
    """The guesses that differ from the truth."""
    roles = drafted["roles"]
    names = [*truth.roles, *(name for name in roles if name not in truth.roles)]
    found = [
        f"{name} is {truth.roles.get(name, 'left out')}, guessed {roles.get(name, 'left out')}"
        for name in names
        if roles.get(name) != truth.roles.get(name)
    ]
    if drafted["split"]["by"] != truth.split:
        found.append(f"split by {truth.split}, guessed {drafted['split']['by']}")
    for name, settings in truth.settings.items():
        given = {key: drafted["settings"][name].get(key) for key in settings}
        if given != settings:
            found.append(f"{name}: {settings}, guessed {given}")
    return "; ".join(found) or "none"


if __name__ == "__main__":
    main()
