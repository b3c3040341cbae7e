"""Search files: a preset, the settings that a search draws, and the record of what it searches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ctrdist.config.experiment import Experiment
from ctrdist.config.parse import from_dict, to_dict
from ctrdist.errors import ConfigError
from ctrdist.studies.study import (
    Complete,
    changed_settings,
    compared_settings,
    experiment_from,
    fingerprint_of,
    read_yaml,
)

_DRAWS = {"choice": None, "uniform": 2, "loguniform": 2, "randint": 2}
"""Kind of draw → number of values that it takes; None: any number."""
_OF_THE_JOB = ("data", "run_name", "runs", "model_name")
"""Settings that the command gives, and a preset does not."""

Space = dict[str, dict[str, list[Any]]]


@dataclass(frozen=True, kw_only=True)
class SearchFile:
    """A search: one preset, and the settings that are drawn."""

    model: str
    """Name of the model."""
    preset: str = ""
    """YAML preset, relative to the search's file."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of all trials that differ from the preset's, by dotted name."""
    space: Space = field(default_factory=dict)
    """Dotted name → {choice: [a, b]}, {uniform: [low, high]}, {loguniform: [low, high]} or
    {randint: [low, high]}, which excludes high."""


def read_search(path: str) -> SearchFile:
    """Reads a search's file.

    Raises:
        ConfigError: there is no such file, or something in it is wrong.
    """
    return from_dict(SearchFile, read_yaml(path), path)


def base_experiment(
    search: SearchFile, *, path: str, name: str, settings: dict[str, Any], complete: Complete
) -> Experiment:
    """Returns the complete experiment that all trials vary; their names begin with the search's.

    The preset is relative to the path of the search's file. The given settings, data and runs among
    them, win over the file's.

    Raises:
        ConfigError: settings cannot work, or the space cannot be drawn.
    """
    values = {**search.settings, **settings, "run_name": name, "tracking.experiment": name}
    experiment = experiment_from(search.model, search.preset, Path(path).parent, values, complete)
    _check_space(path, search.space, experiment)
    return experiment


def _check_space(where: str, space: Space, experiment: Experiment) -> None:
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


def record_search(
    directory: Path, space: Space, trials: int, seed: int, experiment: Experiment
) -> None:
    """Records in `directory` what is searched, so that only the same search can be resumed there.

    Raises:
        ConfigError: another search was begun in the directory; the message says what differs.
    """
    fingerprint = fingerprint_of(experiment.data)
    settings = compared_settings(experiment, fingerprint)
    what = {"settings": settings, "space": space, "trials": trials, "seed": seed}
    path = directory / "search.yaml"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(what, sort_keys=False))
        return
    begun = yaml.safe_load(path.read_text())
    changed = changed_settings(begun["settings"], experiment, fingerprint)
    changed += [key for key in ("space", "trials", "seed") if what[key] != begun[key]]
    if changed:
        raise ConfigError(
            f"{path}: another search was begun under this name; it differs in "
            f"{', '.join(changed)}. Give another --name, or remove {directory}."
        )


def as_preset(values: Mapping[str, Any]) -> str:
    """Returns an experiment's settings as the text of a preset, without those of the job."""
    kept = {key: value for key, value in values.items() if key not in _OF_THE_JOB}
    return yaml.safe_dump(kept, sort_keys=False)
