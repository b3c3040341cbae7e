"""Runs without a setting beside logistic regression, on data sets that preprocessing has written.

For each data set, model and seed it runs `jobs/train.py --model MODEL --data DIR` with no other
setting, and for each data set jobs/logistic_regression.py. It prints a table of test AUC and log
loss, means over the seeds, and appends each run as a line of JSON to --out.

python benchmarks/first_run.py --data data/a data/b --models tf4ctr dlf --seeds 1 2 --out runs.jsonl
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.models.registry import model_names

ROOT = Path(__file__).resolve().parents[1]


def last_json(*command: str) -> dict[str, Any]:
    """Runs a job and returns the object that it prints last, with its duration in seconds."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command, "--json"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result | {"seconds": time.monotonic() - begun}


def train(model: str, data: str, seed: int, runs: str) -> dict[str, Any]:
    """Trains a model without a setting; the figures of its run."""
    name = f"{model}-{Path(data).name}-{seed}"
    result = last_json(
        *("jobs/train.py", "--model", model, "--data", str(Path(data).resolve())),
        *("--runs", runs, "--run-name", name, "--train.seed", str(seed)),
        *("--tracking.mlflow", "false"),
    )
    test, valid = result["test"], result["valid"]
    return {
        "data": Path(data).name,
        "model": model,
        "seed": seed,
        **{name: test[name] for name in ("auc", "logloss", "ne", "wide_auc", "wide_logloss")},
        "share": valid["tower_share"],
        "epochs": result["epochs"],
        "seconds": round(result["seconds"], 1),
    }


def main() -> None:
    """Reads the command line, runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="directories of data sets")
    parser.add_argument("--models", nargs="+", default=list(model_names()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", default="", help="file to which each run is appended")
    given = parser.parse_args()
    print("| data set | model | test AUC | test log loss | NE | share α | epochs | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for data in given.data:
        reference = last_json("jobs/logistic_regression.py", "--data", str(Path(data).resolve()))
        lr = reference["test"]
        name = f"| {Path(data).name} |"
        print(
            f"{name} scikit-learn | {lr['auc']:.4f} | {lr['logloss']:.4f} | {lr['ne']:.3f} | | | |"
        )
        for model in given.models:
            with tempfile.TemporaryDirectory() as runs:
                found = [train(model, data, seed, runs) for seed in given.seeds]
            if given.out:
                with open(given.out, "a") as file:
                    file.writelines(json.dumps(run | {"lr": lr}) + "\n" for run in found)
            m = {key: mean(run[key] for run in found) for key in found[0] if key not in _TEXT}
            print(
                f"{name} {model} | {m['auc']:.4f} ({m['auc'] - lr['auc']:+.4f}) | "
                f"{m['logloss']:.4f} ({m['logloss'] - lr['logloss']:+.4f}) | {m['ne']:.3f} | "
                f"{m['share']:.2f} | {m['epochs']:.0f} | {m['seconds']:.0f} |",
                flush=True,
            )


_TEXT = ("data", "model", "seed")

if __name__ == "__main__":
    main()
