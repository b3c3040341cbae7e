"""Diagnostics of real runs: what they measure, that they change nothing, on one worker and two."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from ctrdist.batch import GATE_MEAN, Output
from ctrdist.config.experiment import (
    CheckpointConfig,
    DiagnosticsConfig,
    Experiment,
    LoaderConfig,
    ShardingConfig,
    TrackingConfig,
    TrainConfig,
)
from ctrdist.config.optimizers import DenseOptimConfig, OptimConfig, TableOptimConfig
from ctrdist.data.loader import Loader
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.models.dual_attention.settings import DualAttentionConfig, TransformerConfig
from ctrdist.models.tf4ctr.settings import TF4CTRConfig
from ctrdist.sharding.shard import table_parts
from ctrdist.tracking import RunTracker
from ctrdist.tracking.events import EVENTS_NAME, metric_history
from ctrdist.training.build import Engine, build_engine
from ctrdist.training.loop.trainer import Trainer
from ctrdist.training.observe.abundance import abundances
from ctrdist.training.observe.diagnostics import (
    Diagnostics,
    RowClasses,
    attention_mass,
    parameters_by_part,
)
from ctrdist.training.observe.observers import Observer
from ctrdist.training.observe.recording import Tracking
from tests.datasets import write_dataset
from tests.ranks import run_ranks

ROWS = {"train": 999, "valid": 301, "test": 200}
STEPS = 8  # of each epoch, in steps of 128
MODELS: dict[str, Any] = {
    "dlf": DLFConfig(
        embedding_dim=8,
        num_layers=1,
        tokens_per_block=4,
        rank=3,
        hidden_dim=16,
        attention_layers=1,
        dropout=0.2,
    ),
    "tf4ctr": TF4CTRConfig(
        embedding_dim=8,
        simple_hidden_dims=(8,),
        complex_hidden_dims=(16, 8),
        batch_norm=False,
        dropout=0.0,
    ),
    "transformer": TransformerConfig(embedding_dim=8, hidden_dims=(16,), batch_norm=False),
    "dual_attention": DualAttentionConfig(
        embedding_dim=8,
        hidden_dims=(16,),
        batch_norm=False,
        codebook_rows=61,
        codebook_dim=8,
        codebook_init_std=1.0,
        frequency=False,
    ),
}


def experiment_for(data: str, model: str, **diagnostics: Any) -> Experiment:
    """Two epochs; every second step is measured where nothing else is said."""
    return Experiment(
        model_name=model,
        data=data,
        run_name="run",
        model=MODELS[model],
        loader=LoaderConfig(batch_size=128, shuffle_rows=500),
        optim=OptimConfig(
            tables=TableOptimConfig(name="adagrad", lr=0.05),
            dense=DenseOptimConfig(l2=1e-3),
            max_grad_norm=1e-2,  # small: what is recorded must be from before the clipping
        ),
        sharding=ShardingConfig(default="row_wise"),
        train=TrainConfig(epochs=2, seed=5, embedding_init_std=0.5),
        checkpoint=CheckpointConfig(every_steps=0),
        tracking=TrackingConfig(mlflow=False),
        diagnostics=DiagnosticsConfig(**{"every_steps": 2, **diagnostics}),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, ROWS)
    return str(path)


def fit(world: World, experiment: Experiment, run_dir: str, resume: bool = False) -> dict[str, Any]:
    """A whole run; its weights, summary and what rank 0 has recorded."""
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    tracker = None
    if world.is_main:
        tracker = RunTracker(run_dir, run_dir, "run", experiment.tracking, resume)
    observers: list[Observer] = []
    if experiment.diagnostics.enabled:
        observers.append(Diagnostics(experiment.diagnostics, tracker))
    if tracker is not None:
        observers.append(Tracking(tracker, 5))
    summary = Trainer(engine, run_dir, observers).fit()
    recorded = metric_history(Path(run_dir) / EVENTS_NAME, ("",)) if world.is_main else {}
    weights = {
        name: value.float().numpy().copy() for name, value in engine.tower.state_dict().items()
    }
    for table, part, row, column in table_parts(engine.model):
        weights[f"{table}@{row},{column}"] = part.numpy().copy()
    return {"weights": weights, "summary": summary, "recorded": recorded}


@pytest.mark.parametrize(
    ("model", "accumulate", "precision"),
    [
        ("dlf", 1, "float32"),
        pytest.param("dlf", 3, "bfloat16", marks=pytest.mark.slow),
        pytest.param("dual_attention", 1, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_weights_are_bit_equal_with_and_without(data, tmp_path, model, accumulate, precision):
    watched = experiment_for(data, model, every_steps=1)
    watched = replace(
        watched,
        loader=replace(watched.loader, accumulate=accumulate),
        train=replace(watched.train, precision=precision),
    )
    plain = replace(watched, diagnostics=DiagnosticsConfig(enabled=False))
    one = run_ranks(fit, 2, plain, str(tmp_path / "a"))
    other = run_ranks(fit, 2, watched, str(tmp_path / "b"))
    for rank in range(2):
        assert other[rank]["weights"].keys() == one[rank]["weights"].keys()
        for key, value in one[rank]["weights"].items():
            np.testing.assert_array_equal(other[rank]["weights"][key], value, err_msg=key)
    assert other[0]["summary"]["test"] == one[0]["summary"]["test"]
    assert not any(name.startswith("grad_norm/") for name in one[0]["recorded"])
    norms = {k for k in other[0]["recorded"] if k.startswith("grad_norm/")}
    assert {"grad_norm/looked_up_tokens", "grad_norm/head"} <= norms
    assert all(len(other[0]["recorded"][name]) == 2 * STEPS for name in norms)


def measured(recorded: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """The metrics that Diagnostics has recorded, without those of Tracking."""
    own = ("grad_norm/", "tables/", "classes/")
    return {n: v for n, v in recorded.items() if n.startswith(own)}


@pytest.mark.parametrize(
    "model", ["tf4ctr", pytest.param("dual_attention", marks=pytest.mark.slow)]
)
def test_two_workers_or_micro_batches_measure_what_one_does(data, tmp_path, model):
    whole = experiment_for(data, model)
    in_micro_batches = replace(whole, loader=replace(whole.loader, accumulate=3))
    one = run_ranks(fit, 1, whole, str(tmp_path / "a"))[0]
    wanted = measured(one["recorded"])
    assert {
        "classes/train_positives_misclassified",
        "classes/valid_negatives_well_classified",
    } <= set(wanted)
    assert set(wanted["grad_norm/looked_up_hard" if model == "tf4ctr" else "grad_norm/scores"]) == {
        *(2, 4, 6, 8, 10, 12, 14, 16)
    }
    for workers, experiment, name in ((2, whole, "b"), (1, in_micro_batches, "c")):
        other = run_ranks(fit, workers, experiment, str(tmp_path / name))
        found = measured(other[0]["recorded"])
        assert found.keys() == wanted.keys()
        for key, points in wanted.items():
            assert found[key].keys() == points.keys(), key
            # a row on the border of two classes may change sides
            loose = 0.02 if key.endswith("classified") else 0
            np.testing.assert_allclose(
                list(found[key].values()), list(points.values()), rtol=1e-3, atol=loose, err_msg=key
            )
        if workers == 2:
            assert other[1]["summary"]["collapsed_tables"] == one["summary"]["collapsed_tables"]


def gradients(world: World, experiment: Experiment) -> tuple[dict[str, float], dict[str, float]]:
    """The recorded norms of the first step, and those that autograd gives for its rows."""
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    run_dir = f"{experiment.runs}/first"
    tracker = RunTracker(run_dir, run_dir, "run", experiment.tracking, False)
    model, tower = engine.model.module, engine.tower
    loader = Loader(engine.dataset, "train", experiment.loader, seed=experiment.train.seed)
    batch = next(iter(loader))
    emb = {group: e.detach().requires_grad_() for group, e in model.embed(batch).items()}
    logits_B = tower(emb).logits_B
    loss = functional.binary_cross_entropy_with_logits(logits_B, batch.label_B)
    weights = dict(tower.named_parameters())
    grads = torch.autograd.grad(loss, [*emb.values(), *weights.values()])
    wanted = {f"looked_up_{group}": float(g.norm()) for group, g in zip(emb, grads, strict=False)}
    for part in ("low", "high", "implicit"):
        squares = [
            float(g.double().square().sum())
            for name, g in zip(weights, grads[len(emb) :], strict=True)
            if f".{part}." in name
        ]
        wanted[part] = math.sqrt(sum(squares))
    Trainer(engine, run_dir, [Diagnostics(experiment.diagnostics, tracker)]).fit()
    history = metric_history(Path(run_dir) / EVENTS_NAME, ("grad_norm/",))
    return {name.removeprefix("grad_norm/"): v[1] for name, v in history.items()}, wanted


def test_gradient_norms_are_those_of_the_loss_alone(data, tmp_path):
    """Neither clipped nor with L2, though the run has both."""
    experiment = experiment_for(data, "dlf", every_steps=1)
    experiment = replace(
        experiment,
        runs=str(tmp_path),
        model=replace(experiment.model, dropout=0.0),
        train=replace(experiment.train, max_steps=1),
    )
    found, wanted = run_ranks(gradients, 1, experiment)[0]
    assert found["low_order"] == pytest.approx(wanted.pop("low"), rel=1e-4)
    assert found["high_order"] == pytest.approx(wanted.pop("high"), rel=1e-4)
    for name, value in wanted.items():
        assert value > 0 and found[name] == pytest.approx(value, rel=1e-4), name


def count_classes(world: World, logits_N: np.ndarray, label_N: np.ndarray) -> list[dict]:
    classes = RowClasses(world.device)
    for part in np.array_split(np.arange(len(label_N)), 3 * world.size)[world.rank :: world.size]:
        classes.add(torch.from_numpy(logits_N[part]), torch.from_numpy(label_N[part]))
    return [classes.take(), classes.take()]


def test_classes_of_rows_are_those_of_the_paper(rng):
    p_N = np.r_[rng.random(997), 0.599, 0.601, 0.199, 0.201]
    label_N = (rng.random(len(p_N)) < 0.3).astype(np.float32)
    own_N = np.where(label_N == 1, p_N, 1 - p_N)
    wanted = {}
    for name, rows in (("positives", own_N[label_N == 1]), ("negatives", own_N[label_N == 0])):
        wanted[f"{name}_well_classified"] = np.mean(rows >= 0.6)
        wanted[f"{name}_poorly_classified"] = np.mean((rows >= 0.2) & (rows < 0.6))
        wanted[f"{name}_misclassified"] = np.mean(rows < 0.2)
    logits_N = np.log(p_N / (1 - p_N)).astype(np.float32)
    for first, second in run_ranks(count_classes, 3, logits_N, label_N):
        assert first == pytest.approx(wanted)
        assert second == {}


def share_of_well_classified(engine: Engine, split: str) -> float:
    """The share among the split's positives, from the predictions themselves."""
    loader = Loader(engine.dataset, split, engine.experiment.loader, shuffle=False)
    engine.model.eval()
    with torch.no_grad():
        rows = [(torch.sigmoid(engine.model(batch).logits_B), batch.label_B) for batch in loader]
    engine.model.train()
    p_N, label_N = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return float((p_N[label_N == 1] >= 0.6).float().mean())


def valid_classes(world: World, experiment: Experiment) -> dict[str, float]:
    """The shares after the last epoch, from the predictions themselves."""
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    seen = {}

    class Last(Diagnostics):
        def on_evaluate(self, event, step, histogram):
            super().on_evaluate(event, step, histogram)
            seen[event.split] = share_of_well_classified(engine, event.split)

    run_dir = f"{experiment.runs}/valid"
    tracker = RunTracker(run_dir, run_dir, "run", experiment.tracking, False)
    Trainer(engine, run_dir, [Last(experiment.diagnostics, tracker)]).fit()
    history = metric_history(Path(run_dir) / EVENTS_NAME, ("classes/",))
    well = {s: history[f"classes/{s}_positives_well_classified"] for s in seen}
    found = {split: list(shares.values())[-1] for split, shares in well.items()}
    return {"found": found, "wanted": seen}


def test_classes_of_valid_and_test_are_of_all_their_rows(data, tmp_path):
    experiment = replace(experiment_for(data, "tf4ctr"), runs=str(tmp_path))
    result = run_ranks(valid_classes, 1, experiment)[0]
    assert 0 < result["wanted"]["valid"] < 1
    assert result["found"] == pytest.approx(result["wanted"])


def mass(world: World, experiment: Experiment, rows: int) -> np.ndarray:
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    found = attention_mass(engine, rows)
    assert found is not None and engine.model.training
    return found.numpy()


@pytest.mark.parametrize("model", ["transformer", "dual_attention"])
def test_attention_is_the_mean_over_the_rows_of_all_workers(data, model):
    experiment = experiment_for(data, model)
    experiment = replace(experiment, train=replace(experiment.train, eval_batch_size=67))
    one = run_ranks(mass, 1, experiment, 10**6)[0]
    assert one.shape == (2, 5, 5)
    if model == "transformer":  # the other's gate leaves no sum of 1
        np.testing.assert_allclose(one.sum(-1), 1.0, rtol=1e-5)
    for found in run_ranks(mass, 2, experiment, 10**6):
        np.testing.assert_allclose(found, one, rtol=1e-4, atol=1e-6)
    first_rows = run_ranks(mass, 1, experiment, 68)[0]  # two steps of 67 of the 301 rows
    assert np.abs(first_rows - one).max() > 1e-5


def gates(world: World, experiment: Experiment) -> dict[int, float]:
    """The recorded gates, for outputs whose rows differ between ranks and micro-batches."""
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    tracker = None
    if world.is_main:
        tracker = RunTracker(experiment.runs, experiment.runs, "run", experiment.tracking, False)
    diagnostics = Diagnostics(experiment.diagnostics, tracker)
    trainer = Trainer(engine, experiment.runs, [diagnostics])
    diagnostics.on_start(engine, replace(trainer._start(0), steps_per_epoch=9))
    for rows, gate in ((world.rank + 1, 1.0 + world.rank), (4, 0.5)):
        aux = {GATE_MEAN: torch.tensor([gate, 2 * gate])}
        diagnostics.on_output(Output(logits_B=torch.zeros(rows), aux=aux), torch.ones(rows))
    trainer.progress.step = 1
    diagnostics.on_step(trainer.stepped(0.5, -1.0, 11, 0.1))
    if not world.is_main:
        return {}
    history = metric_history(Path(experiment.runs) / EVENTS_NAME, ("gate/",))
    return {name: points[1] for name, points in history.items()}


def test_gates_are_weighed_by_rows(data, tmp_path):
    experiment = replace(experiment_for(data, "dlf", every_steps=1), runs=str(tmp_path))
    mean = (1 * 1.0 + 2 * 2.0 + 2 * 4 * 0.5) / 11
    found = run_ranks(gates, 2, experiment)[0]
    assert found == pytest.approx({"gate/layer_1": mean, "gate/layer_2": 2 * mean})


def test_a_restarted_run_goes_on_in_its_curves(data, tmp_path):
    whole = experiment_for(data, "tf4ctr")
    short = replace(whole, train=replace(whole.train, max_steps=5))
    run_ranks(fit, 2, short, str(tmp_path))
    again = run_ranks(fit, 2, whole, str(tmp_path), True)[0]
    points = again["recorded"]["grad_norm/simple"]
    assert list(points) == [2, 4, 6, 8, 10, 12, 14, 16]
    assert list(again["recorded"]["tables/least_used"]) == [1, 2]
    plots = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert {"abundance", "gradient_norms", "classes"} <= plots and "attention_mass" not in plots


def parts_and_tables(world: World, experiment: Experiment) -> dict[str, Any]:
    engine = build_engine(experiment, open_dataset(experiment.data), world)
    parts = parameters_by_part(engine)
    dense = {id(p) for p in engine.optimizers.dense_parameters}
    listed = [id(p) for parameters in parts.values() for p in parameters]
    return {
        "parts": list(parts),
        "whole": sorted(listed) == sorted(dense),
        "small": sorted(abundances(engine, 30)),
    }


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("dlf", {"low_order", "high_order", "implicit", "fusion", "residual"}),
        ("tf4ctr", {"simple", "complex", "fuse"}),
        ("dual_attention", {"scores", "filter", "fusion", "attention", "feed_forward", "pairs"}),
        ("transformer", {"attention", "feed_forward", "head"}),
    ],
)
def test_every_dense_weight_is_in_one_part_and_long_tables_are_left_out(data, model, parts):
    found = run_ranks(parts_and_tables, 2, experiment_for(data, model))[0]
    assert parts <= set(found["parts"]) and "layers" not in found["parts"][:1]
    assert found["whole"]
    fields = {table.partition("/")[2] for table in found["small"]}
    assert fields == {"C0", "C1"}  # of 30 and 7 rows; C2 has 50
