"""Logs in the shapes of well-known ones are described rightly, and preprocessing takes the YAML."""

import json

import pytest

from benchmarks.measuring.log_shapes import SHAPES, make
from ctrdist.config.parse import parse
from ctrdist.errors import ConfigError, DataError
from preprocessing.config.describe import DescribeConfig
from preprocessing.config.settings import PreprocessConfig
from preprocessing.describe.draft import draft
from preprocessing.describe.log import describe_log
from preprocessing.pipeline import check


@pytest.mark.parametrize("shape", SHAPES)
def test_every_guess_is_right(shape, tmp_path):
    truth = make(shape, tmp_path / shape, rows=1500)
    guesses, inputs = describe_log(DescribeConfig(input=[str(tmp_path / shape)], label=truth.label))
    argv = ["--config", draft(guesses), "--input", json.dumps(inputs)]
    config = check(parse(PreprocessConfig, [*argv, "--output", str(tmp_path / "data")])[0]).config
    assert {column.name: column.role for column in config.columns} == truth.roles
    assert config.split.by == truth.split
    assert {name: getattr(config.format, name) for name in truth.layout} == truth.layout
    by_name = {column.name: column for column in config.columns}
    for name, settings in truth.settings.items():
        assert {key: getattr(by_name[name], key) for key in settings} == settings


def test_the_label_is_asked_for_where_nobody_can_know_it(tmp_path):
    make("unknown_label", tmp_path / "log")
    guesses, inputs = describe_log(DescribeConfig(input=[str(tmp_path / "log")]))
    text = draft(guesses)
    assert "Candidates: premium, done" in text
    config, _ = parse(PreprocessConfig, ["--config", text, "--input", json.dumps(inputs)])
    with pytest.raises(ConfigError, match="none has the role label"):
        check(config)


def test_real_logs(shared_data):
    found = {}
    for path in ("criteo/dac_first10000.tsv", "frappe", "movielens-1m/ratings.first487650.dat.gz"):
        config = DescribeConfig(input=[str(shared_data / path)], sample_bytes=2**20)
        guesses, _ = describe_log(config)
        roles = [c.role for c in guesses.choices]
        found[path] = (guesses.label.settings, guesses.split.settings["by"], roles)
    numbers = ["numeric"] * 9 + ["categorical"] + ["numeric"] * 3
    expected = {
        "criteo/dac_first10000.tsv": ({}, "hash", ["label", *numbers, *["categorical"] * 26]),
        "frappe": ({}, "file", ["label", "user", *["categorical"] * 9]),
        "movielens-1m/ratings.first487650.dat.gz": (
            {"threshold": 4}, "time", ["user", "categorical", "label", "timestamp"],
        ),
    }  # fmt: skip
    assert found == expected
    with pytest.raises(DataError, match="not one log"):
        describe_log(DescribeConfig(input=[str(shared_data / "movielens-1m")]))
