"""Study files: which variants of a preset a comparison trains, with which seeds."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ctrdist.config.experiment import Experiment, experiment_of
from ctrdist.config.migrations import migrated
from ctrdist.config.parse import from_dict, parse, to_dict
from ctrdist.errors import ConfigError
from ctrdist.models.registry import config_class
from jobs.train import complete

_OF_VARIANT = ("preset", "model", "reference")
"""Keys of a variant that are no settings of its experiment."""
_NOT_COMPARED = (
    "data",
    "run_name",
    "runs",
    "checkpoint",
    "faults",
    "tracking",
    "diagnostics",
)
"""Settings that results do not depend on."""


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """A comparison of variants."""

    model: str = ""
    """Name of the model; a variant may name another under `model`."""
    preset: str = ""
    """YAML preset of all variants, relative to the study's file; a variant may name another."""
    seeds: tuple[int, ...] = (2024,)
    """Each variant is trained once with each."""
    reference: str = ""
    """Variant that differences are taken against; by default the first. A variant may name
    another."""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name → settings that differ from the preset's, by their dotted names: model.gate: none."""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """Dotted name → values: a variant for each combination, named after its values."""

    @property
    def references(self) -> dict[str, str]:
        """Variant → the variant that its differences are taken against."""
        return {name: own.get("reference", self.reference) for name, own in self.variants.items()}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run of a study."""

    variant: str
    seed: int
    experiment: Experiment
    """Complete."""
    data_fingerprint: str
    """Of the data set's manifest."""

    @property
    def compared(self) -> dict[str, Any]:
        """All that its results depend on."""
        return compared(self.experiment, self.data_fingerprint)


def compared(experiment: Experiment, data_fingerprint: str) -> dict[str, Any]:
    """All that the results of a run depend on: its settings and the rows, not where they lie."""
    values = to_dict(experiment)
    kept = {key: value for key, value in values.items() if key not in _NOT_COMPARED}
    return {**kept, "data_fingerprint": data_fingerprint}


def in_todays_settings(begun: dict[str, Any], like: Experiment) -> dict[str, Any]:
    """What :func:`compared` gave when a run was begun, as it would be today.

    A setting that there was not yet has its default, with which a run computes what it did before.

    Args:
        begun: as it was read back from a file.
        like: an experiment of today with the same model.
    """
    values = migrated(begun)
    fingerprint = values.get("data_fingerprint", "")
    settings = {key: value for key, value in values.items() if key != "data_fingerprint"}
    try:
        return compared(from_dict(type(like), settings, "begun"), fingerprint)
    except ConfigError:  # a setting that there is no more: it differs, as what was begun
        return begun


def fingerprint_of(data: str) -> str:
    """Of a data set, by its manifest."""
    from ctrdist.data.manifest import open_dataset

    return open_dataset(data).manifest.fingerprint


def read_study(path: str) -> StudyFile:
    """Reads a study's file, and makes its grid into variants.

    Raises:
        ConfigError: there is no such file, or something in it is wrong.
    """
    values = read_yaml(path)
    study = from_dict(StudyFile, values, path)
    variants = {**study.variants, **_combinations(study.grid)}
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
    """The mapping in a study's or search's YAML file.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    file = Path(path)
    if not file.is_file():
        there = sorted(p.stem for p in file.parent.glob("*.yaml"))
        hint = f" There are: {', '.join(there)}." if there else ""
        raise ConfigError(f"--study {path}: no such file.{hint}")
    try:
        values = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: wants keys such as model and preset.")
    return values


def _combinations(grid: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    if not grid:
        return {}
    return {
        " + ".join(str(value) for value in values): dict(zip(grid, values, strict=True))
        for values in itertools.product(*grid.values())
    }


def runs_of(
    study: StudyFile,
    *,
    where: str,
    name: str,
    seeds: Sequence[int],
    variants: Sequence[str],
    settings: dict[str, Any],
    data: str,
    runs: str,
) -> list[Run]:
    """The runs of a study, each complete and checked, seed by seed.

    Args:
        study: by :func:`read_study`.
        where: path of its file: presets are found from there.
        name: of the study; its runs are named <study>.<variant>.<seed>.
        seeds: in place of the study's; empty: those.
        variants: names of those to train; empty: all.
        settings: for all variants; they win over the variants' own.
        data: the data set's directory.
        runs: directory of all runs.

    Raises:
        ConfigError: a variant's settings cannot work.
        DataError: there is no data set.
    """
    unknown = [variant for variant in variants if variant not in study.variants]
    if unknown:
        raise ConfigError(
            f"--variants {', '.join(unknown)}: not in {where}; it has {', '.join(study.variants)}."
        )
    wanted = {key: study.variants[key] for key in (variants or study.variants)}
    slugs = {variant: _slug(variant) for variant in study.variants}
    if len(set(slugs.values())) < len(slugs):
        raise ConfigError(f"{where}: two variants differ in punctuation only; name them apart.")
    planned, fingerprint = [], ""
    for seed, (variant, own) in itertools.product(seeds or study.seeds, wanted.items()):
        try:
            experiment = _experiment(study, own, Path(where).parent, {**settings, "data": data})
            train = replace(experiment.train, seed=seed)
            experiment = complete(
                replace(
                    experiment,
                    run_name=f"{name}.{slugs[variant]}.{seed}",
                    runs=runs,
                    workers=1,
                    min_workers=0,
                    train=train,
                    tracking=replace(experiment.tracking, experiment=name),
                )
            )
        except ConfigError as error:
            raise ConfigError(f"{where}: variant {variant}: {error}") from error
        fingerprint = fingerprint or fingerprint_of(experiment.data)
        run = Run(variant=variant, seed=seed, experiment=experiment, data_fingerprint=fingerprint)
        planned.append(run)
    return planned


def _experiment(
    study: StudyFile, own: dict[str, Any], folder: Path, settings: dict[str, Any]
) -> Experiment:
    model, preset = (own.get(key) or getattr(study, key) for key in ("model", "preset"))
    if not model:
        raise ConfigError("no model is named; give `model`, in the file or in the variant.")
    argv = ["--config", str(folder / preset)] if preset else []
    for key, value in {**own, **settings}.items():
        if key not in _OF_VARIANT:
            argv += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return parse(experiment_of(model, config_class(model)), argv)[0]


def _slug(variant: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", variant).strip("-.") or "variant"
