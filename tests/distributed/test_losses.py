"""Losses in a run of several workers, for a model of two encoders."""

from dataclasses import replace

import numpy as np
import pytest

from ctrdist.config.experiment import Experiment, LoaderConfig, TrackingConfig, TrainConfig
from ctrdist.config.losses import LossConfig
from ctrdist.config.optimizers import DenseOptimConfig, OptimConfig, TableOptimConfig
from ctrdist.models.tf4ctr.settings import TF4CTRConfig
from tests.datasets import write_dataset
from tests.distributed.test_table_optimizers import steps
from tests.ranks import run_ranks

STEPS = 6
MODEL = TF4CTRConfig(
    selection="share",
    fusion="cf",
    embedding_dim=8,
    simple_hidden_dims=(8,),
    complex_hidden_dims=(16, 8),
    dropout=0.0,
    batch_norm=False,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 1999, "valid": 300, "test": 300})
    return str(path)


def experiment_for(data: str, loss: LossConfig) -> Experiment:
    return Experiment(
        model_name="tf4ctr",
        data=data,
        run_name="run",
        model=MODEL,
        loss=loss,
        loader=LoaderConfig(batch_size=127),
        optim=OptimConfig(
            tables=TableOptimConfig(name="adagrad", lr=0.05, eps=1e-2),
            dense=DenseOptimConfig(eps=1e-2),
        ),
        train=TrainConfig(embedding_init_std=0.5),
        tracking=TrackingConfig(mlflow=False),
    )


@pytest.mark.parametrize("name", ["log", "focal", "r_ce"])
def test_heads_that_serve_nothing_do_not_stop_the_workers(data, tmp_path, name):
    """Concatenation reads no encoder's logit, so only twin_focus gives these heads a gradient."""
    run = run_ranks(steps, 2, experiment_for(data, LossConfig(name=name)), str(tmp_path), STEPS)[0]
    assert len(run["losses"]) == STEPS and np.isfinite(run["losses"]).all()
    assert np.linalg.norm(run["end"]["tower"] - run["start"]["tower"]) > 1e-3


def test_micro_batches_make_the_same_step_with_auxiliary_losses(data, tmp_path):
    whole = experiment_for(data, LossConfig(name="twin_focus", gamma=2.0))
    three = replace(whole, loader=replace(whole.loader, accumulate=3))
    one = run_ranks(steps, 2, whole, str(tmp_path / "a"), STEPS)[0]
    more = run_ranks(steps, 2, three, str(tmp_path / "b"), STEPS)[0]
    np.testing.assert_allclose(more["losses"], one["losses"], rtol=1e-5)
    for key, value in one["end"].items():
        moved = np.linalg.norm(value - one["start"][key])
        assert moved > 1e-3
        assert np.linalg.norm(more["end"][key] - value) < 1e-2 * moved, key
