"""Plans, replayed plans and what is said when tables do not fit; no process group is needed."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ctrdist.config.experiment import Experiment, ShardingConfig
from ctrdist.config.optimizers import OptimConfig, TableOptimConfig
from ctrdist.errors import ConfigError
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.models.dual_attention.settings import DualAttentionConfig
from ctrdist.optim.fused import fuse_table_optimizer
from ctrdist.schema import CategoricalField, Schema
from ctrdist.sharding.plan import Layout, layout, plan_tables
from ctrdist.training.build import build_model, sizes

MODEL = DLFConfig(embedding_dim=16, num_layers=1, attention_layers=1)
BIG = "tokens/C0"


def schema(rows: tuple[int, ...], multi_valued: bool = False) -> Schema:
    fields = [CategoricalField(name=f"C{i}", vocabulary_size=n) for i, n in enumerate(rows)]
    if multi_valued:
        fields.append(CategoricalField(name="tags", vocabulary_size=9, multi_valued=True))
    return Schema(name="tiny", numeric=(), categorical=tuple(fields))


def planned(
    sharding: ShardingConfig,
    optimizer: str = "rowwise_adagrad",
    *,
    rows: tuple[int, ...] = (1000, 300, 50),
    workers: int = 2,
    device: str = "cpu",
    multi_valued: bool = False,
    ema_decay: float = 0.0,
) -> Layout:
    optim = OptimConfig(tables=TableOptimConfig(name=optimizer), ema_decay=ema_decay)
    experiment = Experiment(model_name="dlf", model=MODEL, sharding=sharding, optim=optim)
    model = build_model(experiment, schema(rows, multi_valued))
    fuse_table_optimizer(model, optim)
    plan = plan_tables(
        model, sharding, optim, world_size=workers, local_size=workers, device=device
    )
    return layout(plan, model, optim, workers)


def test_layout_counts_weights_state_and_estimated_cost():
    described = planned(ShardingConfig(default="row_wise"))
    assert sum(described.bytes_per_rank) == 4 * 16 * 1350
    assert sum(described.state_bytes_per_rank) == 4 * 1350
    assert len(described.cost_per_rank) == 2 and described.cost_imbalance >= 1
    written = json.loads(described.to_json())
    assert written["state_bytes_per_rank"] == described.state_bytes_per_rank
    assert written["cost_imbalance"] == described.cost_imbalance
    copies = planned(ShardingConfig(default="data_parallel"), "adagrad")
    assert copies.bytes_per_rank == copies.state_bytes_per_rank == [4 * 16 * 1350] * 2


@pytest.mark.parametrize("min_columns", [4, 8])
def test_columns_are_cut_no_narrower_than_asked(min_columns):
    sharding = ShardingConfig(default="column_wise", min_columns=min_columns)
    parts = [s for s in planned(sharding, "sgd", workers=4).shards if s.table == BIG]
    assert min(s.columns[1] for s in parts) >= min_columns
    assert sum(s.columns[1] for s in parts) == 16


def test_half_precision_tables_take_half_the_bytes():
    described = planned(ShardingConfig(default="row_wise", tables_dtype="float16"))
    assert sum(described.bytes_per_rank) == 2 * 16 * 1350


@pytest.mark.parametrize("kind", ["auto", "row_wise", "column_wise", "data_parallel", "grid_shard"])
def test_a_saved_plan_is_replayed(tmp_path, kind):
    first = planned(ShardingConfig(default=kind, tables={"tokens/C1": "table_wise"}), "adagrad")
    saved = tmp_path / "plan.json"
    saved.write_text(first.to_json())
    again = planned(ShardingConfig(plan_file=str(saved)), "adagrad")
    assert sorted(map(repr, again.shards)) == sorted(map(repr, first.shards))
    assert again.cost_imbalance is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": 3}, "for 2 workers, and this run has 3"),
        ({"rows": (1000, 301, 50)}, "tokens/C1 has 300 rows × 16 there, and 301 × 16 here"),
        ({"rows": (1000, 300)}, "tokens/C2 is not in this model"),
        ({"rows": (1000, 300, 50, 5)}, "tokens/C3 is not in it"),
        ({"optimizer": "adam"}, "tokens/C0 is row_wise there"),
    ],
)
def test_a_plan_of_another_run_is_refused(tmp_path, change, message):
    saved = tmp_path / "plan.json"
    saved.write_text(planned(ShardingConfig(default="row_wise")).to_json())
    with pytest.raises(ConfigError, match=re.escape(message)):
        planned(ShardingConfig(plan_file=str(saved)), **change)


def test_a_file_that_is_no_plan_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text("[]")
    for name in ("plan.json", "none.json"):
        with pytest.raises(ConfigError, match="no plan could be read"):
            planned(ShardingConfig(plan_file=str(Path(tmp_path) / name)))


def remedy(message: str, pattern: str) -> int:
    found = re.search(pattern, message)
    assert found, message
    return int(found[1].replace(",", ""))


def test_a_table_that_does_not_fit_says_by_how_much_and_what_would_help():
    """Half a GiB for tables; C0 takes 0.75 GiB of weights, and as much of Adagrad's state."""
    rows = 12 * 2**20
    tight = ShardingConfig(default="table_wise", memory_gb=0.625, reserved=0.2)
    with pytest.raises(ConfigError) as caught:
        planned(tight, "adagrad", rows=(rows, 300), workers=2)
    message = str(caught.value)
    assert f"table {BIG} does not fit: {rows:,} rows × 16" in message
    assert f"{2 * rows * 64 - 2**29:,} more than there are" in message
    workers = remedy(message, r"row_wise and at least (\d+) workers")
    split = replace(tight, tables={BIG: "row_wise"})
    assert planned(split, "adagrad", rows=(rows, 300), workers=workers + 1).world_size
    with pytest.raises(ConfigError, match=f"--workers {workers}"):
        planned(split, "adagrad", rows=(rows, 300), workers=workers - 1)


def test_all_tables_together_do_not_fit():
    tight = ShardingConfig(default="table_wise", memory_gb=0.625, reserved=0.2)
    rows = (4 * 2**20,) * 5  # each fits a worker, two do not
    with pytest.raises(ConfigError) as caught:
        planned(tight, "sgd", rows=rows, workers=2)
    assert f"{5 * 2**28 - 2**30:,} more than there are" in str(caught.value)
    assert remedy(str(caught.value), r"--workers (\d+)") == 3


@pytest.mark.parametrize(("copies", "message"), [(1, "--workers 4"), (2, "holds a copy")])
def test_copies_take_their_room_on_every_worker(copies, message):
    """Half a GiB for tables on each of two workers; each table takes a quarter."""
    kinds = {f"tokens/C{i}": "data_parallel" for i in range(copies)}
    tight = ShardingConfig(default="table_wise", tables=kinds, memory_gb=0.625, reserved=0.2)
    with pytest.raises(ConfigError, match=f"would make them fit: .*{message}, a smaller"):
        planned(tight, "sgd", rows=(4 * 2**20,) * (4 + copies), workers=2)


def test_dense_adams_state_counts():
    """1/3 GiB of weights fits the planner, which knows nothing of two moments."""
    tight = ShardingConfig(memory_gb=0.625, reserved=0.2)
    with pytest.raises(ConfigError, match="does not fit"):
        planned(tight, "adam", rows=(5 * 2**20,), workers=2)


def test_an_average_of_the_weights_counts():
    """0.15 GiB of weights; two moments fit into half a GiB beside them, an average too does not."""
    assert (
        planned(ShardingConfig(), "adam", ema_decay=0.9).state_bytes_per_rank
        == [3 * 4 * 16 * 1350] * 2
    )
    fused = planned(ShardingConfig(), "fused_adam", ema_decay=0.9)  # has no average
    assert sum(fused.state_bytes_per_rank) == 2 * 4 * 16 * 1350
    tight, rows = ShardingConfig(memory_gb=0.625, reserved=0.2), (2_500_000,)
    assert planned(tight, "adam", rows=rows).shards
    with pytest.raises(ConfigError, match=r"does not fit.*--optim\.ema_decay 0"):
        planned(tight, "adam", rows=rows, ema_decay=0.9)


@pytest.mark.parametrize(
    ("settings", "optimizer", "message"),
    [
        ({"tables_dtype": "bfloat16"}, "adagrad", "Use float16 or float32"),
        ({"tables_dtype": "float16"}, "adam", "copies of a table"),
        ({"forward_comm": "int8"}, "adagrad", "forward_comm = int8 needs GPUs"),
        ({"backward_comm": "bfloat16"}, "adagrad", "backward_comm = bfloat16 needs GPUs"),
        ({"min_columns": 6}, "adagrad", "a multiple of 4"),
        ({"reserved": 1.0}, "adagrad", "from 0 to 0.95"),
        ({"default": "data_parallel"}, "lamb", "cannot go with optim.tables.name = lamb"),
        ({"default": "grid_shard"}, "adagrad", "multi-valued"),
    ],
)
def test_settings_that_would_fail_later_are_refused(settings, optimizer, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        planned(ShardingConfig(**settings), optimizer, multi_valued=True)


def test_gpus_may_use_what_cpus_may_not():
    sharding = ShardingConfig(
        forward_comm="int8", backward_comm="fp8", tables_dtype="bfloat16", memory_gb=1.0,
        intra_host_gbps=100.0, inter_host_gbps=10.0,
    )  # fmt: skip
    assert planned(sharding, "lamb", device="cuda").world_size == 2


def test_cpu_workers_beside_a_gpu_have_the_machines_memory(monkeypatch):
    gpu = SimpleNamespace(total_memory=1000)  # bytes
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    assert planned(ShardingConfig(default="row_wise")).shards
    with pytest.raises(ConfigError, match="does not fit"):
        planned(ShardingConfig(default="row_wise"), device="cuda")


@pytest.mark.parametrize("kind", ["row_wise", "table_row_wise", "auto"])
def test_no_worker_is_left_with_an_empty_part_of_a_table(kind):
    described = planned(ShardingConfig(default=kind), rows=(1000, 9, 5), workers=4)
    assert all(shard.rows[1] > 0 for shard in described.shards)
    if kind != "auto":
        kinds = {shard.table: shard.kind for shard in described.shards}
        assert kinds == {BIG: kind, "tokens/C1": "table_wise", "tokens/C2": "table_wise"}


def test_an_empty_part_that_was_asked_for_is_refused():
    sharding = ShardingConfig(tables={"tokens/C1": "row_wise"})
    with pytest.raises(ConfigError, match="9 rows into 4 parts of 3"):
        planned(sharding, rows=(1000, 9), workers=4)


CODEBOOKS = DualAttentionConfig(embedding_dim=16, codebook_rows=4000, frequency=False)


def planned_codebooks(sharding: ShardingConfig, optimizer: str = "rowwise_adagrad") -> Layout:
    optim = OptimConfig(tables=TableOptimConfig(name=optimizer))
    experiment = Experiment(model_name="dual_attention", model=CODEBOOKS)
    model = build_model(experiment, schema((100, 30, 50)))
    fuse_table_optimizer(model, optim)
    plan = plan_tables(model, sharding, optim, world_size=2, local_size=2, device="cpu")
    return layout(plan, model, optim, 2)


def test_codebooks_are_tables_like_any_other(tmp_path: Path):
    described = planned_codebooks(ShardingConfig(default="row_wise"))
    parts = [s for s in described.shards if s.table == "codebook/1"]
    assert [(s.rank, s.rows) for s in parts] == [(0, (0, 2000)), (1, (2000, 2000))]
    assert described.table_parameters == 16 * (180 + 2 * 4000)
    assert sum(described.state_bytes_per_rank) == 4 * (180 + 2 * 4000)
    (tmp_path / "plan.json").write_text(described.to_json())
    again = planned_codebooks(ShardingConfig(plan_file=str(tmp_path / "plan.json")))
    assert {asdict_key(s) for s in again.shards} == {asdict_key(s) for s in described.shards}


def asdict_key(shard):
    return (shard.table, shard.kind, shard.rank, shard.rows, shard.columns)


def test_kinds_for_pooled_tables_are_not_for_codebooks():
    described = planned_codebooks(ShardingConfig(default="table_row_wise"))
    kinds = {s.table: s.kind for s in described.shards}
    assert kinds["tokens/C0"] == "table_row_wise"
    assert kinds["codebook/0"] in ("table_wise", "row_wise", "column_wise")
    with pytest.raises(ConfigError, match=r"codebook/0: grid_shard .*Use one of table_wise, row_"):
        planned_codebooks(ShardingConfig(tables={"codebook/0": "grid_shard"}))
    dense = planned_codebooks(ShardingConfig(), "adam")
    assert {s.kind for s in dense.shards} == {"data_parallel"}


def test_sizes_count_codebooks_once():
    model = build_model(
        Experiment(model_name="dual_attention", model=CODEBOOKS), schema((100, 30, 50))
    )
    counted = sizes(model, schema((100, 30, 50)))
    assert counted.table_parameters == 16 * (180 + 2 * 4000)
    assert counted.table_bytes == 4 * counted.table_parameters
    every = sum(p.numel() for p in model.parameters())
    assert counted.dense_parameters == every - counted.table_parameters
