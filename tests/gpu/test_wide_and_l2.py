"""On one GPU: the wide part and its blend, L2 by occurrence, and the automatic settings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctrdist.config.auto import Facts, automatic, resolve
from ctrdist.config.experiment import Experiment, ShardingConfig
from ctrdist.config.parse import to_dict, with_settings
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World
from ctrdist.models.registry import read_experiment
from ctrdist.training.build import build_engine
from ctrdist.training.faults.stopping import StopRequest
from ctrdist.training.loop.blend import choose_share
from ctrdist.training.loop.evaluate import evaluate
from ctrdist.training.loop.wide import train_wide
from tests.datasets import write_counts, write_dataset
from tests.gpu.test_one_gpu import MODELS, ON_GPU_ONLY, OTHER, experiment_for, on, pytestmark, run

__all__ = ["pytestmark"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("counted")
    rows = {"train": 999, "valid": 700, "test": 700}
    write_counts(write_dataset(path, rows, multi_valued=True))
    return str(path)


def with_l2(experiment: Experiment, strength: float = 300.0) -> Experiment:
    tables = replace(experiment.optim.tables, occurrence_l2=strength)
    return replace(experiment, optim=replace(experiment.optim, tables=tables))


def automatic_settings(data: str, model: str) -> Experiment:
    """The settings of a first run, without dropout, whose draws differ between devices."""
    facts = Facts(rows=999, ids=95, valid=True, counts=True, workers=1)
    settings = resolve(model, automatic(model), facts) | {"model.dropout": 0.0}
    assert settings["model.wide"]
    given = experiment_for(data, model)
    resolved = read_experiment(with_settings(to_dict(given), settings), "automatic settings")
    return replace(resolved, train=replace(resolved.train, epochs=2, max_steps=20))


@pytest.mark.parametrize("model", list(MODELS))
def test_a_first_run_is_that_of_a_cpu(data, tmp_path, model):
    experiment = automatic_settings(data, model)
    cpu = run("cpu", experiment, tmp_path / "cpu")
    gpu = run(OTHER, experiment, tmp_path / "gpu")
    np.testing.assert_allclose(gpu["losses"], cpu["losses"], rtol=4e-3)
    for name in filter(lambda n: n.startswith("wide/"), cpu["weights"]):
        assert np.abs(cpu["weights"][name]).max() > 0.1
        # FBGEMM sums a row's gradients in another order, in hundreds of steps of Adagrad
        np.testing.assert_allclose(
            gpu["weights"][name], cpu["weights"][name], atol=5e-3, err_msg=name
        )
    for key, value in cpu["summary"]["test"].items():
        assert gpu["summary"]["test"][key] == pytest.approx(value, abs=5e-3), key


def test_the_blend_is_that_of_a_cpu(data):
    experiment = automatic_settings(data, "dlf")
    drawn = torch.Generator().manual_seed(0)
    label_N = (torch.rand(5000, generator=drawn) < 0.3).float()
    tower_N = 2 * label_N - 1 + torch.randn(5000, generator=drawn)
    wide_N = 2 * label_N - 1 + torch.randn(5000, generator=drawn)

    def work(world: World) -> tuple[dict[str, float], dict[str, float]]:
        engine = build_engine(experiment, open_dataset(data), world)
        train_wide(engine, lambda: None, StopRequest())
        found = choose_share(engine, wide_N, tower_N, label_N)
        return found, evaluate(engine, "test").metrics

    (cpu, cpu_test), (gpu, gpu_test) = on("cpu", work), on(OTHER, work)
    assert 0 < cpu["tower_share"] < 1
    assert gpu == pytest.approx(cpu, rel=1e-6)
    assert gpu_test == pytest.approx(cpu_test, abs=5e-3)
    assert gpu_test["logloss"] != gpu_test["wide_logloss"]


@pytest.mark.parametrize(
    "name",
    ["sgd", "adagrad", "rowwise_adagrad", pytest.param("fused_adam", marks=ON_GPU_ONLY)],
)
def test_l2_by_occurrence_is_the_same_in_fused_tables_and_in_copies(data, tmp_path, name):
    plain = replace(experiment_for(data, tables=name), sharding=ShardingConfig(default="row_wise"))
    found: dict[str, Any] = {}
    for kind in ("table_wise", "data_parallel"):
        given = replace(with_l2(plain), sharding=ShardingConfig(default=kind))
        found[kind] = run(OTHER, given, tmp_path / kind)["losses"]
    np.testing.assert_allclose(found["table_wise"], found["data_parallel"], rtol=2e-4)
    without = run(OTHER, plain, tmp_path / "without")["losses"]
    assert np.abs(np.subtract(found["table_wise"], without)).max() > 1e-3


@pytest.mark.parametrize("name", ["adagrad", "rowwise_adagrad", "adam"])
def test_l2_by_occurrence_is_that_of_a_cpu(data, tmp_path: Path, name):
    experiment = with_l2(experiment_for(data, tables=name))
    cpu = run("cpu", experiment, tmp_path / "cpu")
    gpu = run(OTHER, experiment, tmp_path / "gpu")
    np.testing.assert_allclose(gpu["losses"], cpu["losses"], rtol=4e-3)
