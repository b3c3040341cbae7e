"""Compiled towers and deterministic mode."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrdist.config.experiment import Experiment, LoaderConfig, ShardingConfig, TrainConfig
from ctrdist.config.optimizers import OptimConfig, TableOptimConfig
from ctrdist.errors import ConfigError
from ctrdist.training.build import has_compiler, prepare_device
from tests.datasets import write_dataset
from tests.distributed.test_table_optimizers import experiment_for, steps
from tests.ranks import run_ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 1999, "valid": 300, "test": 300})
    return str(path)


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler for torch.compile")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_tower_trains_like_an_eager_one(data, tmp_path, precision):
    eager = experiment_for(data, "adagrad", ShardingConfig(default="row_wise"))
    model = replace(eager.model, dropout=0.0)  # compiled dropout draws other numbers
    eager = replace(eager, model=model, train=replace(eager.train, precision=precision))
    compiled = replace(eager, train=replace(eager.train, compile=True))
    one = run_ranks(steps, 2, eager, str(tmp_path / "a"), 4)[0]
    other = run_ranks(steps, 2, compiled, str(tmp_path / "b"), 4)[0]
    assert other["end"].keys() == one["end"].keys()
    tolerance = 1e-4 if precision == "float32" else 2e-2
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=tolerance)


def test_deterministic_runs_are_bit_equal(data, tmp_path):
    experiment = experiment_for(data, "rowwise_adagrad", ShardingConfig(default="row_wise"))
    experiment = replace(experiment, train=replace(experiment.train, deterministic=True))
    one = run_ranks(steps, 2, experiment, str(tmp_path / "a"), 4)[0]
    other = run_ranks(steps, 2, experiment, str(tmp_path / "b"), 4)[0]
    assert one["losses"] == other["losses"]
    for key, value in one["end"].items():
        np.testing.assert_array_equal(other["end"][key], value, err_msg=key)


def test_deterministic_mode_is_switched_on_and_off(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        prepare_device(Experiment(train=TrainConfig(deterministic=True)), "cpu")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        prepare_device(Experiment(), "cpu")
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_the_device_lacks_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    for experiment, message in (
        (Experiment(train=TrainConfig(compile=True)), "needs a C\\+\\+ compiler"),
        (Experiment(train=TrainConfig(precision="float16")), "float16 needs a GPU"),
        (Experiment(train=TrainConfig(kernels="triton")), "kernels = triton needs an NVIDIA GPU"),
        (Experiment(loader=LoaderConfig(accumulate=0)), "from 1 to"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare_device(experiment, "cpu")
    prepare_device(
        Experiment(
            train=TrainConfig(precision="float16"),
            optim=OptimConfig(tables=TableOptimConfig(name="fused_adam")),
        ),
        "cuda",
    )
