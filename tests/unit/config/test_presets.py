"""The presets of the training jobs."""

from pathlib import Path

import pytest

from ctrdist.config.experiment import experiment_of
from ctrdist.config.parse import parse, to_yaml
from ctrdist.models.registry import config_class, model_names

ROOT = Path(__file__).resolve().parents[3]
PRESETS = sorted((ROOT / "jobs/configs").glob("*.yaml"))
assert PRESETS


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_read_and_its_resolved_config_gives_the_same(preset, tmp_path):
    name = max((n for n in model_names() if f"_{n}" in preset.stem), key=len)
    cls = experiment_of(name, config_class(name))
    experiment, _ = parse(cls, ["--config", str(preset)])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(to_yaml(experiment))
    assert parse(cls, ["--config", str(resolved)])[0] == experiment
