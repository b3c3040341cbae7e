"""Studies: the variants of a preset, the runs that compare them, and the results on disk."""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ctrdist.config.experiment import Experiment
from ctrdist.config.migrations import migrated
from ctrdist.config.parse import from_dict, parse, to_dict
from ctrdist.errors import ConfigError
from ctrdist.models.registry import experiment_class
from ctrdist.strict_json import to_text

_NOT_SETTINGS = ("preset", "model", "reference")
"""Keys of a variant that are no settings of its experiment."""

_NOT_COMPARED = (
    "auto",
    "data",
    "run_name",
    "runs",
    "checkpoint",
    "faults",
    "tracking",
    "diagnostics",
)
"""Settings that results do not depend on."""

Complete = Callable[[Experiment], Experiment]
"""Completes and checks an experiment; raises ConfigError if it cannot work."""


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """A comparison of variants."""

    model: str = ""
    """Name of the model; a variant may name another under `model`."""
    preset: str = ""
    """YAML preset of all variants, relative to the study's file; a variant may name another."""
    seeds: tuple[int, ...] = (2024,)
    """Each variant is trained once with each seed."""
    reference: str = ""
    """Variant against which differences are taken; by default the first. A variant may name
    another."""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name → settings that differ from the preset's, by their dotted names: model.gate: none."""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """Dotted name → values: one variant for each combination, named after its values."""

    @property
    def references(self) -> dict[str, str]:
        """Variant → the variant against which its differences are taken."""
        return {name: own.get("reference", self.reference) for name, own in self.variants.items()}


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """One training run of a study."""

    variant: str
    seed: int
    experiment: Experiment
    """Complete."""
    data_fingerprint: str
    """Fingerprint of the data set's manifest."""

    @property
    def compared(self) -> dict[str, Any]:
        """All that the run's results depend on."""
        return compared_settings(self.experiment, self.data_fingerprint)


def read_study(path: str) -> StudyFile:
    """Reads a study's file, and turns its grid into variants.

    Raises:
        ConfigError: there is no such file, or something in it is wrong.
    """
    study = from_dict(StudyFile, read_yaml(path), path)
    variants = dict(study.variants)
    for values in itertools.product(*study.grid.values()) if study.grid else ():
        name = " + ".join(str(value) for value in values)
        variants[name] = dict(zip(study.grid, values, strict=True))
    if not variants or not study.seeds:
        raise ConfigError(f"{path}: there is nothing to train; give variants or a grid, and seeds.")
    reference = study.reference or next(iter(variants))
    study = replace(study, variants=variants, reference=reference)
    for name in (reference, *study.references.values()):
        if name not in variants:
            raise ConfigError(
                f"{path}: reference {name} is none of the variants: {', '.join(variants)}."
            )
    return study


def read_yaml(path: str) -> dict[str, Any]:
    """Reads the YAML file of a study or a search.

    Raises:
        ConfigError: there is no such file, or it does not hold a mapping.
    """
    file = Path(path)
    if not file.is_file():
        others = sorted(p.stem for p in file.parent.glob("*.yaml"))
        hint = f" There are: {', '.join(others)}." if others else ""
        raise ConfigError(f"--study {path}: no such file.{hint}")
    try:
        values = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping with keys such as model and preset.")
    return values


def experiment_from(
    model: str, preset: str, folder: Path, settings: dict[str, Any], complete: Complete
) -> Experiment:
    """Builds the experiment of one run that trains on one worker.

    Settings, by dotted name, win over those of the preset, whose path is relative to the folder.
    """
    argv = ["--config", str(folder / preset)] if preset else []
    for key, value in {**settings, "workers": 1, "min_workers": 0}.items():
        argv += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return complete(parse(experiment_class(model), argv)[0])


def study_runs(
    study: StudyFile,
    *,
    path: str,
    name: str,
    seeds: Sequence[int],
    variants: Sequence[str],
    settings: dict[str, Any],
    complete: Complete,
) -> list[StudyRun]:
    """Returns the runs of a study, each complete and checked, seed by seed.

    Args:
        study: as :func:`read_study` returns it.
        path: of the study's file, to which presets are relative.
        name: of the study; its runs are named <study>.<variant>.<seed>.
        seeds: replace the study's; empty: the study's.
        variants: names of those to train; empty: all.
        settings: of all variants, data and runs among them; they win over the variants' own.
        complete: completes each experiment.

    Raises:
        ConfigError: a variant's settings cannot work.
        DataError: there is no data set.
    """
    unknown = [variant for variant in variants if variant not in study.variants]
    if unknown:
        raise ConfigError(
            f"--variants {', '.join(unknown)}: not in {path}; it has {', '.join(study.variants)}."
        )
    slugs = {v: re.sub(r"[^\w.=-]+", "-", v).strip("-.") or "variant" for v in study.variants}
    if len(set(slugs.values())) < len(slugs):
        raise ConfigError(f"{path}: two variants differ in punctuation only; rename one of them.")
    planned: list[StudyRun] = []
    for seed, variant in itertools.product(seeds or study.seeds, variants or study.variants):
        own = study.variants[variant]
        values = {key: value for key, value in own.items() if key not in _NOT_SETTINGS} | settings
        values |= {"train.seed": seed, "run_name": f"{name}.{slugs[variant]}.{seed}"}
        values["tracking.experiment"] = name
        try:
            model, preset = (own.get(key) or getattr(study, key) for key in ("model", "preset"))
            if not model:
                raise ConfigError("no model is named; give `model`, in the file or in the variant.")
            experiment = experiment_from(model, preset, Path(path).parent, values, complete)
        except ConfigError as error:
            raise ConfigError(f"{path}: variant {variant}: {error}") from error
        data = planned[0].data_fingerprint if planned else fingerprint_of(experiment.data)
        planned.append(
            StudyRun(variant=variant, seed=seed, experiment=experiment, data_fingerprint=data)
        )
    return planned


class Results:
    """Settings and results of the runs that a study has begun: one JSON file per run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def record(self, run: StudyRun, summary: dict[str, Any] | None = None) -> None:
        """Records the settings with which a run begins, and its results once it has some."""
        path = self._path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {"variant": run.variant, "seed": run.seed, "settings": run.compared}
        part = path.with_suffix(".part")
        part.write_text(to_text({**values, "summary": summary}, indent=1))
        part.replace(path)

    def of(self, run: StudyRun) -> dict[str, Any] | None:
        """Returns the results of a run, or None if it has not finished.

        Raises:
            ConfigError: a run of this name was begun with other settings.
        """
        path = self._path(run)
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        changed = changed_settings(found["settings"], run.experiment, run.data_fingerprint)
        if changed:
            raise ConfigError(
                f"{path}: was begun with other settings ({', '.join(changed)}). Give another "
                f"--name, or remove {path} and {run.experiment.runs}/{run.experiment.run_name}."
            )
        return found["summary"]

    def seeds(self) -> list[int]:
        """Returns the seeds of all runs that were begun."""
        return sorted({values["seed"] for values in self._read()})

    def all(self, study: StudyFile) -> dict[str, dict[int, dict[str, Any]]]:
        """Returns variant → seed → results of all finished runs, in the study's order."""
        found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in study.variants}
        for values in self._read():
            if values["summary"] and values["variant"] in found:
                found[values["variant"]][values["seed"]] = values["summary"]
        return {name: dict(sorted(seeds.items())) for name, seeds in found.items() if seeds}

    def _read(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.directory.glob("*.json"))]

    def _path(self, run: StudyRun) -> Path:
        return self.directory / f"{run.experiment.run_name}.json"


def compared_settings(experiment: Experiment, data_fingerprint: str) -> dict[str, Any]:
    """Returns all that the results of a run depend on: its settings and the rows, not paths."""
    values = to_dict(experiment)
    kept = {key: value for key, value in values.items() if key not in _NOT_COMPARED}
    return {**kept, "data_fingerprint": data_fingerprint}


def changed_settings(
    begun: dict[str, Any], experiment: Experiment, data_fingerprint: str
) -> list[str]:
    """Returns how an experiment differs from saved :func:`compared_settings`, by dotted names.

    A setting that did not exist yet had its default of today, with which a run computes the same.
    """
    settings = dict(migrated(begun))
    fingerprint = settings.pop("data_fingerprint", "")
    with suppress(ConfigError):  # a setting that no longer exists makes the two differ
        begun = compared_settings(from_dict(type(experiment), settings, "begun"), fingerprint)
    now = compared_settings(experiment, data_fingerprint)
    # as JSON, where tuples are lists and keys are strings
    return _changed(*(json.loads(json.dumps(each)) for each in (begun, now)))


def fingerprint_of(data: str) -> str:
    """Returns the fingerprint in a data set's manifest."""
    from ctrdist.data.manifest import open_dataset  # here, because it imports Arrow

    return open_dataset(data).manifest.fingerprint


def _changed(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Returns the differences of two nested mappings, by dotted names."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = []
        for key in sorted({*old, *new}):
            parts += _changed(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return parts
    return [] if old == new else [f"{prefix}: {old} → {new}"]
