"""The presets of the training jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ctrdist.config.experiment import experiment_of
from ctrdist.config.parse import parse, to_yaml
from ctrdist.models.registry import config_class, model_names

ROOT = Path(__file__).resolve().parents[3]
PRESETS = sorted((ROOT / "jobs/configs").glob("*.yaml"))
assert PRESETS
STUDIES = sorted((ROOT / "jobs/configs/studies").glob("*_dlf_*.yaml"))
assert STUDIES


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_read_and_its_resolved_config_gives_the_same(preset, tmp_path):
    name = max((n for n in model_names() if f"_{n}" in preset.stem), key=len)
    cls = experiment_of(name, config_class(name))
    experiment, _ = parse(cls, ["--config", str(preset)])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(to_yaml(experiment))
    assert parse(cls, ["--config", str(resolved)])[0] == experiment


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_variants_of_a_study_are_different_models(study):
    values = yaml.safe_load(study.read_text())
    cls = experiment_of(values["model"], config_class(values["model"]))
    models = {}
    for name, settings in values["variants"].items():
        options = [f"--{key}={yaml.safe_dump(v).split()[0]}" for key, v in settings.items()]
        experiment, _ = parse(cls, ["--config", str(study.parent / values["preset"]), *options])
        models[name] = experiment.model
    assert values["reference"] in models
    assert len(set(models.values())) == len(models)
