"""What a user's mistake in a config is answered with."""

import pytest

from ctrdist.config.experiment import experiment_of
from ctrdist.config.parse import parse
from ctrdist.errors import ConfigError
from ctrdist.models.registry import config_class
from preprocessing.config.settings import PreprocessConfig

DLF = experiment_of("dlf", config_class("dlf"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--train.epoch", "3"], ["'train.epoch'", "nearest is 'train.epochs'"]),
        (["--epochs", "3"], ["'epochs'", "nearest is 'train.epochs'"]),
        (["--train.epochs", "three"], ["train.epochs: got 'three'", "an integer"]),
        (["--model.gate", "mx"], ["model.gate: got 'mx'", "'max', 'sigmoid', 'none', 'plain'"]),
        (
            ["--optim.codebooks.nam", "sgd"],
            ["unknown key 'optim.codebooks.nam'", "is 'optim.codebooks.name'"],
        ),
        (["--optim.codebooks.lr", "x"], ["optim.codebooks.lr: got 'x'; allowed: a number"]),
        (["--train.min-lr", "true"], ["train.min_lr: got 'true'; allowed: a number"]),
        (["--sharding.tables.a", "rows"], ["sharding.tables.a: got 'rows'", "'row_wise'"]),
        (["--config", "jobs/configs/frape_dlf.yaml"], ["no such file", "frappe_dlf.yaml"]),
    ],
)
def test_a_mistake_of_the_command_line_is_named(arguments, parts):
    with pytest.raises(ConfigError) as caught:
        parse(DLF, arguments)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("column", "parts"),
    [
        ("{name: a, rol: label}", ["unknown key 'columns[0].rol'", "nearest is 'columns.role'"]),
        ("{name: a, role: numerik}", ["columns[0].role: got 'numerik'", "'numeric'"]),
    ],
)
def test_a_mistake_inside_a_list_is_named(column, parts, tmp_path):
    preset = tmp_path / "data.yaml"
    preset.write_text(f"name: x\ncolumns:\n  - {column}\n")
    with pytest.raises(ConfigError) as caught:
        parse(PreprocessConfig, ["--config", str(preset)])
    for part in parts:
        assert part in str(caught.value)


def test_a_section_that_may_be_null_is_read_from_preset_and_command_line(tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("optim: {codebooks: {name: sgd, lr: 3.0}}\n")
    assert parse(DLF, [])[0].optim.codebooks is None
    over = parse(DLF, ["--config", str(preset), "--optim.codebooks.lr", "0.5"])[0].optim.codebooks
    assert (over.name, over.lr) == ("sgd", 0.5)
    null = parse(DLF, ["--config", str(preset), "--optim.codebooks", "null"])[0]
    assert null.optim.codebooks is None


def test_the_command_line_wins_over_the_preset(tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("train: {epochs: 3, seed: 7}\n")
    experiment, _ = parse(DLF, ["--config", str(preset), "--train.epochs", "5"])
    assert (experiment.train.epochs, experiment.train.seed) == (5, 7)
