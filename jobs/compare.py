"""Trains the variants of a study side by side, and compares them.

python jobs/compare.py --study jobs/configs/studies/frappe_tf4ctr_losses.yaml --data DIR

Each run takes one process. What is finished is kept: the same command goes on where it was ended,
and further --seeds or --variants are added to what is there. The table is printed and written,
with the results of each run, to RUNS/studies/NAME/; all runs are in the MLflow experiment NAME.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.config.parse import parse
from ctrdist.errors import ConfigError, ResourceError
from jobs.console.cli import print_json, run
from jobs.console.study import Run, StudyFile, in_todays_settings, read_study, runs_of
from jobs.console.study_table import StudyConsole, comparison_rows, markdown, show_comparison
from jobs.train import absolute

FLAGS = {
    "json": "The last line on stdout is one JSON object with the comparison.",
    "dry_run": "List the runs and which of them are done, and start nothing.",
}


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What is compared, and on how much of the machine."""

    study: str = ""
    """YAML file of the study: see jobs/configs/studies."""
    data: str = ""
    """Directory that jobs/preprocess.py wrote: local or s3://."""
    name: str = ""
    """Of the study; by default its file's."""
    runs: str = "runs"
    """Directory of all runs; CTRDIST_RUNS replaces this default."""
    seeds: tuple[int, ...] = ()
    """In place of the study's own."""
    variants: tuple[str, ...] = ()
    """Those to train now; empty: all."""
    set: dict[str, Any] = field(default_factory=dict)
    """Settings of all variants, by dotted name: '{train.epochs: 1}'."""
    cores: int = 1
    """Cores of each run."""
    parallel: int = 0
    """Most runs at a time; 0: as many as there are cores, or GPUs, for."""


class Results:
    """Results of the runs of a study, one JSON file each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def begin(self, run: Run) -> None:
        """Writes down with which settings a run is begun."""
        self._write(run, {"settings": run.compared, "summary": None})

    def take(self, run: Run, summary: dict[str, Any]) -> None:
        """Writes the results of a run."""
        self._write(run, {"settings": run.compared, "summary": summary})

    def of(self, run: Run) -> dict[str, Any] | None:
        """The results of a run, if it has been finished.

        Raises:
            ConfigError: under its name something else was begun.
        """
        path = self._path(run)
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        begun, now = (
            json.loads(json.dumps(settings))
            for settings in (in_todays_settings(found["settings"], run.experiment), run.compared)
        )
        if begun != now:
            changed = ", ".join(_changed(begun, now))
            raise ConfigError(
                f"{path}: was begun with other settings ({changed}). Give another --name, or "
                f"remove {path} and {run.experiment.runs}/{run.experiment.run_name}."
            )
        return found["summary"]

    def seeds(self) -> list[int]:
        """Of all runs that were begun."""
        begun = (json.loads(path.read_text()) for path in self.directory.glob("*.json"))
        return sorted({values["seed"] for values in begun})

    def _path(self, run: Run) -> Path:
        return self.directory / f"{run.experiment.run_name}.json"

    def _write(self, run: Run, values: dict[str, Any]) -> None:
        path = self._path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"variant": run.variant, "seed": run.seed, **values}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(whole, indent=1))
        part.replace(path)

    def all(self, study: StudyFile) -> dict[str, dict[int, dict[str, Any]]]:
        """Variant → seed → results of everything finished, in the study's order."""
        found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in study.variants}
        for path in sorted(self.directory.glob("*.json")):
            values = json.loads(path.read_text())
            if values["summary"] and values["variant"] in found:
                found[values["variant"]][values["seed"]] = values["summary"]
        return {name: dict(sorted(seeds.items())) for name, seeds in found.items() if seeds}


def _changed(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        parts = []
        for key in sorted({*old, *new}):
            parts += _changed(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return parts
    return [] if old == new else [f"{prefix}: {old} → {new}"]


def main() -> None:
    """Reads the command line, trains what is missing, and shows the comparison."""
    config, switches = parse(CompareConfig, description=__doc__, flags=FLAGS)
    if not config.study or not config.data:
        missing = "--study FILE" if not config.study else "--data DIR"
        raise ConfigError(f"{missing} is missing; see --help.")
    study = read_study(config.study)
    name = config.name or Path(config.study).stem
    runs_folder = config.runs if config.runs != "runs" else os.environ.get("CTRDIST_RUNS", "runs")
    runs_folder = absolute(runs_folder, "--runs (or CTRDIST_RUNS)")
    plan = partial(
        runs_of,
        study,
        where=config.study,
        name=name,
        settings=config.set,
        data=config.data,
        runs=runs_folder,
    )
    runs = plan(seeds=config.seeds, variants=config.variants)
    results = Results(Path(runs_folder) / "studies" / name)
    if results.seeds():  # what was trained before goes into the same table
        for earlier in plan(seeds=results.seeds(), variants=()):
            results.of(earlier)
    missing_runs = [run for run in runs if results.of(run) is None]
    console = StudyConsole(len(runs), len(runs) - len(missing_runs))
    if switches["dry_run"]:
        console.list_runs(runs, missing_runs)
        return
    failed = _train(missing_runs, results, config, console) if missing_runs else {}
    rows = comparison_rows(results.all(study), study.references)
    if rows:
        show_comparison(name, rows)
        text = markdown(name, rows)
        (results.directory / "table.md").write_text(text)
        print(f"results: {results.directory}", file=sys.stderr)
    if switches["json"]:
        print_json({"study": name, "directory": str(results.directory), "variants": rows})
    if failed:
        first, text = next(iter(failed.items()))
        raise ResourceError(
            f"{len(failed)} of {len(runs)} runs failed; the others are kept. {first}: {text}"
        )


def _train(
    runs: Sequence[Run], results: Results, config: CompareConfig, console: StudyConsole
) -> dict[str, str]:
    from cluster.pool import train_side_by_side

    by_name = {planned.experiment.run_name: planned for planned in runs}
    for planned in runs:
        results.begin(planned)

    def done(name: str, summary: dict[str, Any]) -> None:
        results.take(by_name[name], summary)
        console.done(name, summary)

    with console:
        return train_side_by_side(
            [run.experiment for run in runs],
            cores=config.cores,
            parallel=config.parallel,
            show=console.show,
            done=done,
        )


if __name__ == "__main__":
    run(main)
