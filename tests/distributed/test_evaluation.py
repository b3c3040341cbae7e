"""Evaluation by histograms on several ranks against the exact one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ctrdist.config.experiment import TrainConfig, experiment_of
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed import World
from ctrdist.models.configs import DLFConfig
from ctrdist.training.build import build_engine
from ctrdist.training.evaluate import evaluate
from tests.datasets import write_dataset
from tests.ranks import run_ranks

MODEL = DLFConfig(
    embedding_dim=8,
    num_layers=1,
    tokens_per_block=4,
    rank=3,
    hidden_dim=16,
    attention_layers=1,
    gate="plain",
)


def both(world: World, data: str) -> tuple[dict[str, float], dict[str, float], int]:
    """Metrics with and without the predictions gathered, and how many rows the plots get."""
    experiment = experiment_of("dlf", DLFConfig)(
        data=data, model=MODEL, train=TrainConfig(eval_batch_size=300, embedding_init_std=1.0)
    )
    engine = build_engine(experiment, open_dataset(data), world)
    exact = evaluate(engine, "test")
    engine.experiment = replace(experiment, train=replace(experiment.train, exact_rows=500))
    counted = evaluate(engine, "test")
    drawn = 0 if counted.logits_N is None else len(counted.logits_N)
    return exact.metrics, counted.metrics, drawn


@pytest.mark.parametrize("workers", [1, 3])
def test_histograms_give_the_exact_metrics_within_their_bound(tmp_path, workers):
    write_dataset(tmp_path, {"train": 100, "test": 2001}, user=True)
    results = run_ranks(both, workers, str(tmp_path))
    exact, counted, drawn = results[0]
    assert abs(counted["auc"] - exact["auc"]) <= counted["auc_error"] < 1e-3
    for name in ("logloss", "ne", "calibration", "gauc", "rows", "positives"):
        assert counted[name] == pytest.approx(exact[name], rel=1e-6), name
    assert 300 < drawn <= 600
    assert all(result[1] == counted for result in results)
