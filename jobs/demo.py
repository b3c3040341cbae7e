"""The whole way in minutes: synthetic click log → preprocessing → DLF on two workers → test AUC.

Each part is a Ray job. The log has planted interactions, so the best AUC that any model could reach
is known. The demo needs no network and no account.

python jobs/demo.py
"""

import json
import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.config.paths import IS_PATH, runs_directory
from jobs.console.cli import call, run


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Settings of the demo."""

    output: str = field(default="demo", metadata=IS_PATH)
    """Directory for the log (log/) and the data set (data/). Those of an earlier demo with the same
    rows and seed are used again."""
    runs: str = field(default_factory=runs_directory, metadata=IS_PATH)
    """Directory of the runs and of MLflow's database; CTRDIST_RUNS replaces the default, runs."""
    rows: int = 300_000
    """Rows of the log."""
    seed: int = 2024
    """Seed of the log."""
    overwrite: bool = False
    """Replace the log and the data set of an earlier demo that had other rows or another seed."""


def demo(config: DemoConfig) -> dict[str, Any]:
    """Makes a log, submits the jobs, compares them and returns their results."""
    from cluster.job_submission import own_cluster, submit

    start = time.monotonic()
    logs, data = f"{config.output}/log", f"{config.output}/data"
    print(f"a demo of the whole way; it writes to {config.output} and {config.runs}", flush=True)
    _part(1, f"a raw log of {config.rows:,} rows")
    best_auc = make_log(config, logs)

    def job(*command: str) -> str:
        words = (os.path.relpath(a) if a.startswith(config.output) else a for a in command)
        print(f"$ python {' '.join(words)}", flush=True)
        return submit(address, command, show=_show_line)

    with own_cluster(num_cpus=max(2, len(os.sched_getaffinity(0)))) as address:
        print(f"Ray's job API is at {address}, behind a token", flush=True)
        _part(2, "preprocessing, as a Ray job")
        raw = sorted(str(path) for path in Path(logs).glob("*.tsv"))
        preset = ["--config", "jobs/configs/data/criteo.yaml", "--name", "demo"]
        preset += ["--min_count", "10", "--overwrite", str(config.overwrite).lower()]
        job("jobs/preprocess.py", *preset, "--input", *raw, "--output", data)
        _part(3, "logistic regression, as a Ray job")
        linear = _last_json(job("jobs/logistic_regression.py", "--data", data, "--json"))
        _part(4, "DLF on two workers, tables sharded by TorchRec, as a Ray job")
        preset = ["--config", "jobs/configs/demo_dlf.yaml", "--workers", "2"]
        preset += ["--run-name", time.strftime("demo-%Y%m%d-%H%M%S"), "--runs", config.runs]
        trained = _last_json(job("jobs/train_dlf.py", *preset, "--data", data, "--json"))
    result = {
        "seconds": time.monotonic() - start,
        "best_reachable_auc": best_auc,
        "logistic_regression": linear["test"],
        "dlf": trained["test"],
        "samples_per_s": trained["samples_per_s"],
        "run": trained,
    }
    show(result)
    return result


def make_log(config: DemoConfig, folder: str) -> float:
    """Writes the log, unless an earlier demo has written it, and returns the best reachable AUC.

    Raises:
        DataError: something else is there, or another log and `overwrite` is off.
    """
    from preprocessing.config.synthetic import LogConfig
    from preprocessing.sources.synthetic import TRUTH, write_log

    wanted = LogConfig(output=folder, rows=config.rows, seed=config.seed, overwrite=True)
    truth = Path(folder, TRUTH)  # written last
    if truth.is_file():
        found = json.loads(truth.read_text())
        if all(found["config"][key] == getattr(wanted, key) for key in ("rows", "files", "seed")):
            print(f"the log of an earlier demo is in {folder}", flush=True)
            return found["bayes_auc"]
    return write_log(replace(wanted, overwrite=config.overwrite)).bayes_auc


def show(result: dict[str, Any]) -> None:
    """Prints the comparison, and what to do next."""
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
        f"DLF gained {100 * share:.0f}% of the difference between logistic regression and the best "
        "reachable AUC."
    )
    trained = result["run"]
    lines = [
        verdict if share > 0.5 else f"{verdict} That is too little: something is wrong.",
        f"took {result['seconds']:.0f} s. The run is in {trained['run_dir']}",
        "next: look at it in MLflow,",
        f"  .venv/bin/mlflow ui --backend-store-uri {trained['tracking_uri']}",
        f"  then open {trained['mlflow_page']}",
        "then train on a log of your own: README.md. It begins with",
        "  .venv/bin/python jobs/describe.py --input LOG --output clicks.yaml",
    ]
    out.print("\n".join(lines), highlight=False, soft_wrap=True)


def _part(number: int, title: str) -> None:
    print(f"\n[{number}/4] {title}", flush=True)


def _show_line(line: str) -> None:
    if not line.startswith("{"):  # the JSON results are not for the user
        print(line, flush=True)


def _last_json(output: str) -> dict[str, Any]:
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return json.loads(lines[-1])


if __name__ == "__main__":
    run(lambda: call(demo, DemoConfig, __doc__))
