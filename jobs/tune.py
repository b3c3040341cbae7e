"""Searches settings of a model with Ray Tune; chooses by the valid split alone.

python jobs/tune.py --study jobs/configs/studies/frappe_tf4ctr_search.yaml --data DIR --trials 30

Every trial is a run in the MLflow experiment NAME. The same command goes on with a search that was
ended. RUNS/studies/NAME/ gets table.md and best.yaml, a preset: train it with further seeds before
believing it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from ctrdist.config.experiment import Experiment, experiment_of
from ctrdist.config.parse import from_dict, parse, to_dict
from ctrdist.errors import ConfigError, ResourceError
from ctrdist.models.registry import config_class
from jobs.console.cli import print_json, run
from jobs.console.study import compared, fingerprint_of, in_todays_settings, read_yaml
from jobs.console.study_table import SearchConsole, show_search
from jobs.train import absolute, complete

FLAGS = {"json": "The last line on stdout is one JSON object with the search."}
_DRAWS = {"choice": None, "uniform": 2, "loguniform": 2, "randint": 2}
"""How a setting may be drawn → how many values that wants; None: any number."""


@dataclass(frozen=True, kw_only=True)
class SearchFile:
    """A search: one preset, and the settings that are drawn."""

    model: str
    """Name of the model."""
    preset: str = ""
    """YAML preset, relative to the search's file."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of all trials that differ from the preset's, by dotted name."""
    space: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    """Dotted name → {choice: [a, b]}, {uniform: [low, high]}, {loguniform: [low, high]} or
    {randint: [low, high]} (high left out)."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """What is searched, and on how much of the machine."""

    study: str = ""
    """YAML file of the search: see jobs/configs/studies."""
    data: str = ""
    """Directory that jobs/preprocess.py wrote: local or s3://."""
    name: str = ""
    """Of the search; by default its file's."""
    runs: str = "runs"
    """Directory of all runs; CTRDIST_RUNS replaces this default."""
    trials: int = 30
    """Trials in all."""
    seed: int = 2024
    """Of the draws; each trial trains with train.seed."""
    set: dict[str, Any] = field(default_factory=dict)
    """Settings of all trials, by dotted name: '{train.epochs: 1}'."""
    cores: int = 1
    """Cores of each trial."""
    parallel: int = 0
    """Most trials at a time; 0: as many as there are cores, or GPUs, for."""


def main() -> None:
    """Reads the command line, searches, and shows the trials."""
    config, switches = parse(TuneConfig, description=__doc__, flags=FLAGS)
    if not config.study or not config.data:
        missing = "--study FILE" if not config.study else "--data DIR"
        raise ConfigError(f"{missing} is missing; see --help.")
    if config.trials < 1:
        raise ConfigError(f"--trials {config.trials}: at least 1.")
    search_file = from_dict(SearchFile, read_yaml(config.study), config.study)
    name = config.name or Path(config.study).stem
    experiment = base_of(config, search_file, name)
    check_space(config.study, search_file.space, experiment)
    directory = Path(experiment.runs) / "studies" / name
    _check_same_search(directory, config, search_file, experiment)
    from cluster.tuning import search, with_settings

    with SearchConsole(config.trials) as console:
        trials = search(
            experiment,
            search_file.space,
            trials=config.trials,
            cores=config.cores,
            parallel=config.parallel,
            seed=config.seed,
            directory=str(directory / "tune"),
            show=console.show,
        )
    if trials[0]["status"] == "failed":
        raise ResourceError(f"all {len(trials)} trials failed. {trials[0]['error']}")
    trained = [trial for trial in trials if trial["status"] == "trained"]
    if not trained:
        raise ResourceError(f"none of {len(trials)} trials was trained to its end; see the table.")
    text = show_search(name, trials, experiment.train.monitor)
    (directory / "table.md").write_text(text)
    best = with_settings(to_dict(experiment), trained[0]["settings"])
    kept = {k: v for k, v in best.items() if k not in ("data", "run_name", "runs", "model_name")}
    (directory / "best.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
    print(f"results: {directory}; the best as a preset: {directory}/best.yaml", file=sys.stderr)
    if switches["json"]:
        print_json({"study": name, "directory": str(directory), "trials": trials})


def _check_same_search(
    directory: Path, config: TuneConfig, search_file: SearchFile, experiment: Experiment
) -> None:
    """Writes down what is searched, or refuses another search under the same name.

    Raises:
        ConfigError: what differs from the search that was begun there.
    """
    what = {
        "settings": compared(experiment, fingerprint_of(experiment.data)),
        "space": search_file.space,
        "trials": config.trials,
        "seed": config.seed,
    }
    path = directory / "search.yaml"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(what, sort_keys=False))
        return
    begun = yaml.safe_load(path.read_text())
    begun["settings"] = in_todays_settings(begun["settings"], experiment)
    now, begun = (yaml.safe_load(yaml.safe_dump(values)) for values in (what, begun))
    changed = [key for key in what if now[key] != begun[key]]
    if changed:
        raise ConfigError(
            f"{path}: another search was begun under this name; it differs in "
            f"{', '.join(changed)}. Give another --name, or remove {directory}."
        )


def base_of(config: TuneConfig, search_file: SearchFile, name: str) -> Experiment:
    """The complete experiment that all trials begin from; its run_name begins theirs."""
    argv: list[str] = []
    if search_file.preset:
        argv += ["--config", str(Path(config.study).parent / search_file.preset)]
    values = {**search_file.settings, **config.set, "data": config.data}
    for key, value in values.items():
        argv += [f"--{key}", value if isinstance(value, str) else yaml.safe_dump(value).strip()]
    cls = experiment_of(search_file.model, config_class(search_file.model))
    experiment = parse(cls, argv)[0]
    runs = config.runs if config.runs != "runs" else os.environ.get("CTRDIST_RUNS", "runs")
    return complete(
        replace(
            experiment,
            run_name=name,
            runs=absolute(runs, "--runs (or CTRDIST_RUNS)"),
            workers=1,
            min_workers=0,
            tracking=replace(experiment.tracking, experiment=name),
        )
    )


def check_space(where: str, space: dict[str, dict[str, list[Any]]], experiment: Experiment) -> None:
    """Refuses settings that do not exist and draws that cannot be made.

    Raises:
        ConfigError: names them, and the file `where`.
    """
    if not space:
        raise ConfigError(f"{where}: the space is empty; give settings and how they are drawn.")
    known = to_dict(experiment)
    for key, how in space.items():
        inner: Any = known
        for part in key.split("."):
            inner = inner.get(part) if isinstance(inner, dict) else None
        if inner is None:
            raise ConfigError(f"{where}: space: there is no setting {key}.")
        kind, values = next(iter(how.items()), ("nothing", []))
        if len(how) != 1 or kind not in _DRAWS or len(values) != (_DRAWS[kind] or len(values)):
            raise ConfigError(
                f"{where}: space: {key} is drawn by {how}; give one of choice: [a, b, …], "
                "uniform: [low, high], loguniform: [low, high], randint: [low, high]."
            )


if __name__ == "__main__":
    run(main)
