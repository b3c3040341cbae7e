"""Settings that follow from the data: what wins over them, and what a run keeps."""

import pytest

from ctrdist.config.auto import MODEL_RULES, Facts, automatic, resolve
from ctrdist.config.parse import parse, to_dict, to_yaml, with_settings
from ctrdist.data.manifest import open_dataset
from ctrdist.errors import ConfigError
from ctrdist.models.registry import experiment_class, model_names, read_experiment
from ctrdist.training.complete import complete, remarks
from tests.datasets import write_dataset


def facts(rows: int, ids: int = 1000) -> Facts:
    return Facts(
        rows=rows,
        ids=ids,
        valid=True,
        rarer_train=rows // 5,
        counts=True,
        workers=1,
    )


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("rows", [1, 700, 60_000, 10_000_000_000])
def test_every_rule_gives_a_setting_that_its_model_takes(name, rows):
    cls = experiment_class(name)
    settings = resolve(name, automatic(name), facts(rows))
    assert settings.keys() == set(automatic(name))
    experiment = read_experiment(with_settings(to_dict(cls()), settings), "rules")
    again, _ = parse(cls, [*("--config", to_yaml(experiment))])
    assert again.model == experiment.model and again.optim == experiment.optim
    assert set(MODEL_RULES) == set(model_names())


def test_presets_and_options_win(tmp_path):
    preset = tmp_path / "p.yaml"
    preset.write_text("optim:\n  tables: {lr: 0.5}\nmodel: {wide: false}\n")
    cls = experiment_class("dlf")
    options = ["--config", str(preset), "--loader.batch-size=77", "--train", "{patience: 9}"]
    experiment, _ = parse(cls, options)
    left = set(automatic("dlf")) - set(experiment.auto)
    assert left == {"optim.tables.lr", "model.wide", "loader.batch_size", "train.patience"}
    assert parse(cls, ["--auto", "[]"])[0].auto == ()
    with pytest.raises(ConfigError, match="auto"):
        parse(cls, ["--auto", "3"])


def test_a_run_keeps_the_settings_that_it_began_with(tmp_path):
    data = str(tmp_path / "data")
    write_dataset(tmp_path / "data", {"train": 900, "valid": 90})
    cls = experiment_class("tf4ctr")
    arguments = ["--data", data, "--runs", str(tmp_path), "--run-name", "r", "--workers", "3"]
    first = complete(parse(cls, arguments)[0])
    assert first.loader.batch_size == 128 and first.model.embedding_dim == 8
    folder = tmp_path / "r" / "artifacts"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(first).replace("batch_size: 128", "batch_size: 96"))
    again = complete(parse(cls, arguments)[0])
    assert again.loader.batch_size == 96 and again.model == first.model
    old = "model_name: tf4ctr\nloader: {batch_size: 64}\n"  # from before there were such settings
    (folder / "config.yaml").write_text(old)
    resumed = complete(parse(cls, arguments)[0])
    assert resumed.loader.batch_size == 64 and resumed.optim == cls().optim
    assert not resumed.model.wide


def test_the_run_says_what_follows_from_the_data_and_what_a_small_valid_split_means(tmp_path):
    path = tmp_path / "data"
    write_dataset(path, {"train": 900, "valid": 90})
    experiment = complete(parse(experiment_class("dlf"), ["--data", str(path)])[0])
    chosen, few = remarks(experiment)
    assert "loader.batch_size 128" in chosen and "model.wide false" in chosen  # without counts
    assert "rows of the rarer label" in few and "logloss is monitored" in few
    write_dataset(tmp_path / "none", {"train": 900})
    alone = complete(parse(experiment_class("dlf"), ["--data", str(tmp_path / "none")])[0])
    assert "no valid split" in remarks(alone)[-1]
    assert open_dataset(str(path)).split("valid").rows == 90


def test_a_wide_part_without_a_valid_split_is_refused(tmp_path):
    write_dataset(tmp_path, {"train": 900})
    options = ["--data", str(tmp_path), "--model.wide", "true"]
    with pytest.raises(ConfigError, match=r"model\.wide = true needs a valid split"):
        complete(parse(experiment_class("dlf"), options)[0])
