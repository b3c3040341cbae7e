"""One GPU computes what a CPU computes: models, optimisers, precisions, prefetch, checkpoints."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctrdist.config.experiment import (
    CheckpointConfig,
    Experiment,
    LoaderConfig,
    ShardingConfig,
    TrackingConfig,
    TrainConfig,
)
from ctrdist.config.optimizers import DenseOptimConfig, OptimConfig, TableOptimConfig
from ctrdist.data.manifest import open_dataset
from ctrdist.distributed.process_group import World, join_world, leave_world
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.models.dual_attention.settings import DualAttentionConfig, TransformerConfig
from ctrdist.models.layers import short_attention
from ctrdist.models.tf4ctr.settings import TF4CTRConfig
from ctrdist.sharding.shard import table_parts
from ctrdist.training.build import Engine, build_engine
from ctrdist.training.loop.trainer import Trainer
from ctrdist.training.observe.observers import Observer, Stepped
from ctrdist.training.run import evaluate_checkpoint
from tests.datasets import write_dataset

# CTRDIST_TEST_DEVICE=cpu runs the same tests between two runs on a CPU: for whoever writes them
OTHER = os.environ.get("CTRDIST_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(
    OTHER == "cuda" and not torch.cuda.is_available(), reason="needs an NVIDIA GPU"
)
ON_GPU_ONLY = pytest.mark.skipif(OTHER != "cuda", reason="needs an NVIDIA GPU")

STEPS = 20
MODELS: dict[str, Any] = {
    "dlf": DLFConfig(embedding_dim=8, num_layers=1, tokens_per_block=4, rank=3, hidden_dim=16),
    "tf4ctr": TF4CTRConfig(dropout=0.0),
    "dual_attention": DualAttentionConfig(embedding_dim=8, combo=True, frequency=False),
    "transformer": TransformerConfig(embedding_dim=8),
}


class Losses(Observer):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step(self, event: Stepped) -> None:
        self.losses.append(event.loss)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 5999, "valid": 700, "test": 700}, multi_valued=True)
    return str(path)


def experiment_for(data: str, model: str = "dlf", tables: str = "adagrad") -> Experiment:
    return Experiment(
        model_name=model,
        data=data,
        run_name="run",
        model=MODELS[model],
        loader=LoaderConfig(batch_size=256),
        optim=OptimConfig(
            tables=TableOptimConfig(name=tables, lr=0.05, eps=1e-2),  # type: ignore[arg-type]
            dense=DenseOptimConfig(eps=1e-2),
        ),
        train=TrainConfig(epochs=2, max_steps=STEPS, seed=3, embedding_init_std=0.5),
        checkpoint=CheckpointConfig(every_steps=10),
        tracking=TrackingConfig(mlflow=False),
    )


def on(device: str, work: Callable[[World], Any]) -> Any:
    """Runs work(world) in a world of one process on a device."""
    index = 0 if device == "cuda" else None
    world = join_world(torch.device(device, index))
    try:
        return work(world)
    finally:
        leave_world()


def weights(engine: Engine) -> dict[str, np.ndarray]:
    """The tower's weights, and the parts of the tables, of a world of one."""
    tables = {
        f"{name}[{row}:, {column}:]": part.detach().float().cpu().numpy()
        for name, part, row, column in table_parts(engine.model)
    }
    tower = {name: p.detach().float().cpu().numpy() for name, p in engine.tower.named_parameters()}
    return {**tower, **tables}


def run(device: str, experiment: Experiment, run_dir: Path) -> dict[str, Any]:
    """A whole run: losses of its steps, weights at its end, results."""

    def work(world: World) -> dict[str, Any]:
        engine = build_engine(experiment, open_dataset(experiment.data), world)
        kept = Losses()
        summary = Trainer(engine, str(run_dir), [kept]).fit()
        return {"losses": kept.losses, "weights": weights(engine), "summary": summary}

    return on(device, work)


@pytest.mark.parametrize("model", list(MODELS))
def test_a_gpu_trains_as_a_cpu_does(data, tmp_path, model):
    experiment = experiment_for(data, model)
    cpu = run("cpu", experiment, tmp_path / "cpu")
    gpu = run(OTHER, experiment, tmp_path / "gpu")
    assert len(cpu["losses"]) == STEPS
    np.testing.assert_allclose(gpu["losses"][:5], cpu["losses"][:5], rtol=2e-4)
    # rounding grows from step to step; a wrong gradient would show in the third digit by now
    np.testing.assert_allclose(gpu["losses"], cpu["losses"], rtol=4e-3)
    assert gpu["losses"][-1] < gpu["losses"][0]
    for key, value in cpu["summary"]["test"].items():
        assert gpu["summary"]["test"][key] == pytest.approx(value, abs=5e-3), key


@ON_GPU_ONLY
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", ["dlf", "dual_attention", "transformer"])
def test_a_run_with_kernels_is_the_same_run(data, tmp_path, model, compiled):
    plain = experiment_for(data, model)
    train = replace(plain.train, kernels="triton", compile=compiled)
    one = run("cuda", plain, tmp_path / "plain")
    other = run("cuda", replace(plain, train=train), tmp_path / "kernels")
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=5e-4)


@ON_GPU_ONLY
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("tokens", [16, 65])
def test_attention_takes_more_rows_than_a_fused_kernel(precision, tokens):
    shape = (70_000, 2, tokens, 8)
    q, k, v = (torch.randn(shape, device="cuda", requires_grad=True) for _ in range(3))
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision != "float32"):
        out = short_attention(q, k, v)
    out.float().sum().backward()
    last = [part[-5:].detach().double() for part in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*last)
    torch.testing.assert_close(out[-5:].double(), expected, rtol=0.02, atol=0.02)
    assert all(torch.isfinite(part.grad).all() for part in (q, k, v))


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise"])
def test_prefetched_steps_equal_plain_ones(data, tmp_path, kind):
    plain = experiment_for(data)
    plain = replace(
        plain,
        sharding=ShardingConfig(default=kind, shared_memory=False),
        train=replace(plain.train, pipeline="none"),
    )
    ahead = replace(plain, train=replace(plain.train, pipeline="sparse_dist"))
    one = run(OTHER, plain, tmp_path / "plain")
    other = run(OTHER, ahead, tmp_path / "ahead")
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "sgd",
        "adagrad",
        "rowwise_adagrad",
        pytest.param("fused_adam", marks=ON_GPU_ONLY),
        pytest.param("fused_rowwise_adam", marks=ON_GPU_ONLY),
    ],
)
def test_a_fused_optimiser_equals_the_one_of_copies(data, tmp_path, name):
    sharded = replace(
        experiment_for(data, tables=name), sharding=ShardingConfig(default="table_wise")
    )
    copied = replace(sharded, sharding=ShardingConfig(default="data_parallel"))
    one = run(OTHER, sharded, tmp_path / "sharded")
    other = run(OTHER, copied, tmp_path / "copied")
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-4)


@ON_GPU_ONLY
def test_lamb_and_weight_decay_train(data, tmp_path):
    lamb = run("cuda", experiment_for(data, tables="lamb"), tmp_path / "lamb")
    assert lamb["losses"][-1] < lamb["losses"][0]
    plain = experiment_for(data, tables="rowwise_adagrad")
    tables = replace(plain.optim.tables, weight_decay=0.5)
    decayed = replace(plain, optim=replace(plain.optim, tables=tables))
    one, other = run("cuda", plain, tmp_path / "a"), run("cuda", decayed, tmp_path / "b")
    key = "tokens/C0[0:, 0:]"
    assert np.abs(other["weights"][key]).sum() < np.abs(one["weights"][key]).sum()


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=ON_GPU_ONLY)])
def test_half_precision_is_close(data, tmp_path, precision):
    plain = experiment_for(data)
    half = replace(plain, train=replace(plain.train, precision=precision))
    one, other = run(OTHER, plain, tmp_path / "a"), run(OTHER, half, tmp_path / "b")
    assert other["losses"] != one["losses"]
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=3e-2)


def test_half_tables_are_close(data, tmp_path):
    plain = experiment_for(data)
    half = replace(plain, sharding=ShardingConfig(tables_dtype="float16"))
    one, other = run(OTHER, plain, tmp_path / "a"), run(OTHER, half, tmp_path / "b")
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dlf", "tf4ctr"])
def test_a_compiled_tower_trains_alike(data, tmp_path, model):
    plain = experiment_for(data, model)
    compiled = replace(plain, train=replace(plain.train, compile=True))
    one, other = run(OTHER, plain, tmp_path / "a"), run(OTHER, compiled, tmp_path / "b")
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=5e-4)


def test_a_resumed_run_repeats_the_undisturbed_one(data, tmp_path):
    whole = run(OTHER, experiment_for(data), tmp_path / "whole")
    begun = experiment_for(data)
    short = replace(begun, train=replace(begun.train, max_steps=10))
    first = run(OTHER, short, tmp_path / "parts")
    second = run(OTHER, begun, tmp_path / "parts")
    assert first["losses"] == whole["losses"][:10]
    assert second["losses"] == whole["losses"][10:]
    for name, value in whole["weights"].items():
        np.testing.assert_array_equal(second["weights"][name], value, err_msg=name)


@pytest.mark.parametrize(("first", "then"), [("cpu", OTHER), (OTHER, "cpu")])
def test_a_checkpoint_of_one_device_is_evaluated_on_the_other(data, tmp_path, first, then):
    experiment = experiment_for(data)
    done = run(first, experiment, tmp_path / "run")["summary"]

    def work(world: World) -> dict[str, Any]:
        return evaluate_checkpoint(experiment, done["checkpoint"], "test", world, lambda _: None)

    found = on(then, work)["test"]
    for key, value in done["test"].items():
        assert found[key] == pytest.approx(value, abs=2e-4), key
