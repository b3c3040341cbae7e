"""Evaluation by histograms on several ranks against the exact one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctrdist.config.experiment import TrainConfig, experiment_of
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World
from ctrdist.metrics.histogram import CalibrationTable
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.training.build import build_engine
from ctrdist.training.loop.evaluate import Evaluation, evaluate
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


def shown(evaluation: Evaluation) -> tuple[dict[str, float], np.ndarray, CalibrationTable] | None:
    """The part of an evaluation that rank 0 records and draws."""
    if evaluation.histogram is None:
        return None
    counts = evaluation.histogram.counts_2Q.numpy()
    return evaluation.metrics, counts, evaluation.histogram.calibration_table()


def both(world: World, data: str) -> tuple[Any, Any, dict[str, float]]:
    """With and without the predictions gathered; the latter's metrics of every rank."""
    experiment = experiment_of("dlf", DLFConfig)(
        data=data, model=MODEL, train=TrainConfig(eval_batch_size=300, embedding_init_std=1.0)
    )
    engine = build_engine(experiment, open_dataset(data), world)
    exact = shown(evaluate(engine, "test"))
    engine.experiment = replace(experiment, train=replace(experiment.train, exact_rows=500))
    counted = evaluate(engine, "test")
    return exact, shown(counted), counted.metrics


@pytest.mark.parametrize("workers", [1, 3])
def test_histograms_give_the_exact_metrics_within_their_bound(tmp_path, workers):
    write_dataset(tmp_path, {"train": 100, "test": 2001}, user=True)
    results = run_ranks(both, workers, str(tmp_path))
    (exact, rows, _), (counted, summed, table), _ = results[0]
    assert abs(counted["auc"] - exact["auc"]) <= counted["auc_error"] < 1e-3
    for name in ("logloss", "ne", "calibration", "gauc", "rows", "positives"):
        assert counted[name] == pytest.approx(exact[name], rel=1e-6), name
    assert all(metrics == counted for *_, metrics in results)
    # figures are of all rows either way, and drawn by rank 0 alone
    assert summed.sum() == 2001
    np.testing.assert_array_equal(summed, rows)
    predicted = counted["calibration"] * counted["positives"]
    assert table.predicted_Q @ table.rows_Q == pytest.approx(predicted)
    assert all(first is second is None for first, second, _ in results[1:])


@pytest.mark.parametrize("workers", [1, 3])
def test_weighted_rows_count_by_their_weights_on_any_number_of_workers(tmp_path, workers):
    rows, kept = {"train": 100, "test": 2001}, {"train": 0.5, "test": 0.5}
    dataset = write_dataset(tmp_path, rows, user=True, weighted=True, negatives_kept=kept)
    results = run_ranks(both, workers, str(tmp_path))
    (exact, summed, _), (counted, again, _), _ = results[0]
    assert abs(counted["auc"] - exact["auc"]) <= counted["auc_error"] < 1e-3
    for name in ("logloss", "ne", "calibration", "gauc", "rows", "positives", "base_rate"):
        assert counted[name] == pytest.approx(exact[name], rel=1e-6), name
    np.testing.assert_allclose(summed, again)
    files = dataset.split("test").files
    stored = pa.concat_tables(pq.read_table(tmp_path / file.path) for file in files)
    label, weight = stored["label"].to_numpy(), stored["__weight"].to_numpy()
    weight = np.where(label == 0, 2, 1) * weight
    assert counted["rows"] == 2001 and counted["positives"] == label.sum()
    assert counted["base_rate"] == pytest.approx((weight * label).sum() / weight.sum())
    assert all(metrics == counted for *_, metrics in results)
