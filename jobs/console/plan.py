"""The dry run of training: tables, sharding plan and memory, without a worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ctrdist.config.experiment import Experiment
from ctrdist.log import setup

if TYPE_CHECKING:  # it imports torch
    from ctrdist.sharding.plan import Shard


def show_plan(experiment: Experiment) -> dict[str, Any]:
    """Prints where each table would be stored, and returns the same as plain values."""
    setup(0)
    import torch

    from ctrdist.data.manifest import open_dataset
    from ctrdist.optim.fused import check_optim, fuse_table_optimizer
    from ctrdist.sharding.plan import layout, plan_tables
    from ctrdist.training.build import build_model, prepare_device, sizes

    dataset = open_dataset(experiment.data)
    model = build_model(experiment, dataset.schema)
    gpus = torch.cuda.device_count()
    device = "cuda" if gpus else "cpu"
    check_optim(experiment.optim, device)
    prepare_device(experiment, device)
    fuse_table_optimizer(model, experiment.optim)  # the planner counts the memory of its state
    local = min(experiment.workers, gpus) if gpus else experiment.workers
    planned = plan_tables(
        model,
        experiment.sharding,
        experiment.optim,
        world_size=experiment.workers,
        local_size=local,
        device=device,
    )
    described = layout(planned, model, experiment.optim, experiment.workers)
    counted = sizes(model, dataset.schema)
    out = Console()
    by_table: dict[str, list[Shard]] = {}
    for shard in described.shards:
        by_table.setdefault(shard.table, []).append(shard)
    out.print(_tables(by_table, f"{experiment.model_name} on {dataset.schema.name}"))
    held = ", ".join(f"{b / 2**20:,.1f}" for b in described.bytes_per_rank)
    state = ", ".join(f"{b / 2**20:,.1f}" for b in described.state_bytes_per_rank)
    cost = described.cost_imbalance
    balance = "not estimated for the plan of an earlier run" if cost is None else f"{cost:.2f}"
    rows = ", ".join(f"{n} {split.rows:,}" for n, split in dataset.manifest.splits.items())
    out.print(
        f"weights: {counted.table_parameters:,} in tables, {counted.dense_parameters:,} elsewhere\n"
        f"MiB of tables per worker: {held} (fullest over mean {described.imbalance:.2f})\n"
        f"MiB of their optimisers' state (and average) per worker: {state}\n"
        f"estimated time in the tables, slowest worker over mean: {balance}\n"
        f"rows: {rows}; nothing was started",
        highlight=False,
        soft_wrap=True,
    )
    return {
        "table_parameters": counted.table_parameters,
        "dense_parameters": counted.dense_parameters,
        "bytes_per_worker": described.bytes_per_rank,
        "state_bytes_per_worker": described.state_bytes_per_rank,
        "imbalance": described.imbalance,
        "cost_imbalance": described.cost_imbalance,
        "plan": {name: shards[0].kind for name, shards in by_table.items()},
    }


def _tables(by_table: Mapping[str, list[Shard]], title: str) -> Table:
    """One line for each table, the largest first."""
    table = Table("table", "kind", "rows", "columns", "MiB", "workers", title=title)
    for name, shards in sorted(by_table.items(), key=lambda item: -sum(s.bytes for s in item[1])):
        rows = max(s.rows[0] + s.rows[1] for s in shards)
        columns = max(s.columns[0] + s.columns[1] for s in shards)
        ranks = ", ".join(str(s.rank) for s in shards[:8]) + (" …" if len(shards) > 8 else "")
        table.add_row(
            name,
            shards[0].kind,
            f"{rows:,}",
            str(columns),
            f"{sum(s.bytes for s in shards) / 2**20:,.2f}",
            ranks,
        )
    return table
