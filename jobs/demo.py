"""The whole way in minutes: a made-up click log → preprocessing → DLF on two workers → test AUC.

Each part is a Ray job. The log has planted interactions, so the best AUC that any model could reach
is known. Needs no network and no account.

python jobs/demo.py
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ctrdist.config.parse import parse  # noqa: E402
from jobs.console.cli import print_json, run  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Settings of the demo."""

    output: str = "demo"
    """Directory for the log and the data set; an earlier demo's are replaced."""
    runs: str = "runs"
    """Directory of the runs and of MLflow's database."""
    rows: int = 300_000
    """Rows of the log."""
    seed: int = 2024
    """Of the log."""


def main() -> None:
    """Makes a log, submits the jobs, and compares."""
    config, switches = parse(
        DemoConfig,
        description=__doc__,
        flags={"json": "The last line on stdout is one JSON object with the results."},
        prog="jobs/demo.py",
    )
    result = demo(config)
    show(result)
    if switches["json"]:
        print_json(result)


def demo(config: DemoConfig) -> dict[str, Any]:
    """Runs the four parts and gives their results."""
    from cluster.job_submission import own_cluster, submit

    start = time.monotonic()
    output, runs = Path(config.output).absolute(), Path(config.runs).absolute()
    logs, data = output / "log", output / "data"
    for old in (logs, data):
        shutil.rmtree(old, ignore_errors=True)
    name = time.strftime("demo-%Y%m%d-%H%M%S")
    print("a demo of the whole way; what it makes is in demo/ and runs/", flush=True)
    _part(1, f"a raw log of {config.rows:,} rows")
    from preprocessing.sources.synthetic import LogConfig, write_log

    truth = write_log(
        LogConfig(output=str(logs), rows=config.rows, files=4, seed=config.seed, overwrite=True)
    )
    cores = len(os.sched_getaffinity(0))

    def job(command: list[str], environment: dict[str, str] | None = None) -> str:
        shown = " ".join(os.path.relpath(a) if a.startswith(str(output)) else a for a in command)
        print(f"$ python {shown}", flush=True)
        return submit(address, command, environment=environment, show=_show_line)

    with own_cluster(num_cpus=max(2, cores)) as address:
        print(f"Ray's job API is at {address}, behind a token", flush=True)
        _part(2, "preprocessing, as a Ray job")
        raw = sorted(str(path) for path in logs.glob("*.tsv"))
        data_preset = ["--config", "jobs/configs/data/criteo.yaml", "--name", "demo"]
        data_preset += ["--min_count", "10"]
        job(["jobs/preprocess.py", *data_preset, "--input", *raw, "--output", str(data)])
        _part(3, "logistic regression, as a Ray job")
        linear = job(["jobs/logistic_regression.py", "--data", str(data), "--json"])
        _part(4, "DLF on two workers, tables sharded by TorchRec, as a Ray job")
        preset = ["--config", "jobs/configs/demo_dlf.yaml", "--data", str(data), "--workers", "2"]
        trained = job(
            ["jobs/train_dlf.py", *preset, "--run-name", name, "--runs", str(runs), "--json"],
            environment={k: v for k, v in os.environ.items() if k.startswith("MLFLOW_")},
        )
    run_result = _last_json(trained)
    return {
        "seconds": time.monotonic() - start,
        "best_reachable_auc": truth.bayes_auc,
        "logistic_regression": _last_json(linear)["test"],
        "dlf": run_result["test"],
        "samples_per_s": run_result["samples_per_s"],
        "run": run_result,
    }


def show(result: dict[str, Any]) -> None:
    """The comparison, and what to do next."""
    from rich.console import Console
    from rich.table import Table

    best, linear, dlf = result["best_reachable_auc"], result["logistic_regression"], result["dlf"]
    table = Table("test split", "AUC", "logloss", title="demo")
    table.add_row("logistic regression", f"{linear['auc']:.4f}", f"{linear['logloss']:.4f}")
    table.add_row("DLF, 2 workers", f"{dlf['auc']:.4f}", f"{dlf['logloss']:.4f}", style="bold")
    table.add_row("best reachable", f"{best:.4f}", "")
    out = Console()
    out.print(table)
    share = (dlf["auc"] - linear["auc"]) / (best - linear["auc"])
    verdict = (
        f"DLF went {100 * share:.0f}% of the way from logistic regression to the best reachable."
    )
    run_result = result["run"]
    lines = [
        verdict if share > 0.5 else f"{verdict} That is too little: something is wrong.",
        f"took {result['seconds']:.0f} s. The run is in {run_result['run_dir']}",
        "next: look at it in MLflow,",
        f"  .venv/bin/mlflow ui --backend-store-uri {run_result['tracking_uri']}",
        "then train on logs of your own: README.md, or",
        "  .venv/bin/python jobs/preprocess.py --help",
    ]
    out.print("\n".join(lines), highlight=False, soft_wrap=True)


def _part(number: int, title: str) -> None:
    print(f"\n[{number}/4] {title}", flush=True)


def _show_line(line: str) -> None:
    if not line.startswith("{"):  # the results for this script, not for a person
        print(line, flush=True)


def _last_json(output: str) -> dict[str, Any]:
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return json.loads(lines[-1])


if __name__ == "__main__":
    run(main)
