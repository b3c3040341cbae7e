"""Paths of all jobs are absolute, or refused where they would mean another directory."""

import os
from dataclasses import fields, is_dataclass

import pytest

from ctrdist.config.experiment import Experiment, experiment_of
from ctrdist.config.parse import parse
from ctrdist.errors import ConfigError
from ctrdist.models.registry import config_class
from jobs.compare import CompareConfig
from jobs.demo import DemoConfig
from jobs.evaluate import EvaluateConfig
from jobs.logistic_regression import LogisticConfig
from jobs.tune import TuneConfig
from preprocessing.config.settings import PreprocessConfig
from preprocessing.config.synthetic import LogConfig

DLF = experiment_of("dlf", config_class("dlf"))
COLUMNS = ["--columns", "[{name: a, role: label}, {name: b}]", "--name", "x"]
JOBS = [
    (DLF, [], "data runs checkpoint.directory sharding.plan_file"),
    (PreprocessConfig, COLUMNS, "input output work parent"),
    (CompareConfig, [], "data runs"),
    (TuneConfig, [], "data runs"),
    (EvaluateConfig, [], "data checkpoint"),
    (LogisticConfig, [], "data"),
    (DemoConfig, [], "output runs"),
    (LogConfig, [], "output"),
]


def value(config: object, name: str) -> str:
    for part in name.split("."):
        config = getattr(config, part)
    return config[0] if isinstance(config, list) else config


@pytest.mark.parametrize(("cls", "others", "names"), JOBS, ids=lambda x: getattr(x, "__name__", ""))
def test_relative_paths_become_absolute(cls, others, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in names.split():
        given = "[here/x]" if name == "input" else "here/x"
        config, _ = parse(cls, [*others, f"--{name}", given])
        assert value(config, name) == f"{tmp_path}/here/x"
        url = "[s3://b/x]" if name == "input" else "s3://b/x"
        assert value(parse(cls, [*others, f"--{name}", url])[0], name) == "s3://b/x"


@pytest.mark.parametrize(("cls", "others", "names"), JOBS, ids=lambda x: getattr(x, "__name__", ""))
def test_relative_paths_of_a_submitted_job_are_refused(cls, others, names, tmp_path, monkeypatch):
    copy = tmp_path / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("CTRDIST_RUNS", "/runs")
    rest = [] if cls is not DemoConfig else ["--output", "/demo"]
    for name in names.split():
        given = "[x]" if name == "input" else "x"
        with pytest.raises(ConfigError, match=f"--{name} x: a relative path in a submitted job"):
            parse(cls, [*others, *rest, f"--{name}", given])


def test_the_directory_of_the_runs_comes_from_the_command_line_or_the_environment(monkeypatch):
    monkeypatch.setenv("CTRDIST_RUNS", "/elsewhere")
    assert parse(DLF, [])[0].runs == parse(CompareConfig, [])[0].runs == "/elsewhere"
    assert parse(DLF, ["--runs", "/here"])[0].runs == "/here"
    monkeypatch.delenv("CTRDIST_RUNS")
    assert parse(DLF, [])[0].runs == os.path.abspath("runs")


def test_no_setting_that_is_documented_as_a_directory_is_forgotten():
    known = {name for _, _, names in JOBS for name in names.split()}
    usual = {"data", "runs", "output", "input", "work", "parent", "checkpoint", "directory"}

    def check(cls: type, prefix: str = "") -> None:
        for each in fields(cls):
            default = each.default_factory() if callable(each.default_factory) else each.default
            if is_dataclass(default):
                check(type(default), f"{prefix}{each.name}.")
            elif each.name in usual:
                assert each.metadata.get("path") and prefix + each.name in known, each.name

    for cls in [job for job, _, _ in JOBS] + [Experiment]:
        check(cls)
