"""Which worker holds which part of which table.

TorchRec's planner decides, constrained by the config, on rank 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import psutil
import torch
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.types import ModuleSharder, ShardingPlan

from ctrdist.config.experiment import OptimConfig, ShardingConfig
from ctrdist.errors import ConfigError

_AUTO = ["table_wise", "row_wise", "column_wise"]
_OPTIMIZER_BYTES = {
    "rowwise_adagrad": "a float per row",
    "adagrad": "as the table",
    "sgd": "none",
    "adam": "twice the table",
    "fused_adam": "twice the table",
    "fused_rowwise_adam": "as the table, and a float per row",
    "lamb": "twice the table",
}
_RESERVED = 0.15
"""Share of the memory that is kept for the tower, activations and batches."""
GIB = 2**30


class TableSharder(EmbeddingBagCollectionSharder):
    """Offers the planner each kind that works on the device.

    TorchRec's own list leaves row-wise kinds out on the CPU, where gloo has learnt them since; a
    test holds that they equal the unsharded model.
    """

    def __init__(self, *, dense: bool) -> None:
        """Dense: tables under a dense optimiser, a copy on each worker."""
        super().__init__()
        self._dense = dense

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Kinds to choose from."""
        if self._dense:
            return ["data_parallel"]
        return [*_AUTO, "table_row_wise", "table_column_wise", "grid_shard", "data_parallel"]

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Kernels to choose from."""
        copied = self._dense or sharding_type == "data_parallel"
        return [(EmbeddingComputeKernel.DENSE if copied else EmbeddingComputeKernel.FUSED).value]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A part of a table on a worker."""

    table: str
    kind: str
    rank: int
    rows: tuple[int, int]
    """First row and number of rows."""
    columns: tuple[int, int]
    """First column and number of columns."""
    bytes: int
    """Of the weights, without optimiser state."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A plan in plain values, to show, to log and to save."""

    world_size: int
    optimizer_state: str
    """Memory of the optimiser's state, in words."""
    shards: tuple[Shard, ...]

    @property
    def bytes_per_rank(self) -> list[int]:
        """Bytes of weights on each worker."""
        return [
            sum(s.bytes for s in self.shards if s.rank == rank) for rank in range(self.world_size)
        ]

    @property
    def imbalance(self) -> float:
        """Bytes of the fullest worker over the mean."""
        held = self.bytes_per_rank
        return max(held) * len(held) / max(sum(held), 1)

    def to_json(self) -> str:
        """JSON text, for the run's artifacts."""
        return json.dumps(
            {**asdict(self), "bytes_per_rank": self.bytes_per_rank, "imbalance": self.imbalance},
            indent=1,
        )


def make_sharders(optim: OptimConfig) -> list[ModuleSharder[nn.Module]]:
    """The sharders to plan with and to shard with."""
    return [TableSharder(dense=optim.tables.name == "adam")]  # type: ignore[list-item]


def plan_tables(
    model: nn.Module,
    sharding: ShardingConfig,
    optim: OptimConfig,
    *,
    world_size: int,
    local_size: int,
    device: str,
) -> ShardingPlan:
    """Lays the tables of a model on the meta device over the workers. Needs no process group.

    Args:
        model: a :class:`ctrdist.models.ctr.CTRModel`.
        sharding: kinds per table and memory.
        optim: whose table optimiser decides between fused and dense kernels.
        world_size: workers.
        local_size: workers on one machine.
        device: cpu or cuda.

    Raises:
        ConfigError: a table name that does not exist, a kind that the optimiser cannot work with,
            tables that do not fit.
    """
    tables = dict(table_weights(model))
    constraints = _constraints(tables, sharding, optim)
    memory = _memory_per_worker(sharding, local_size)
    topology = Topology(
        world_size=world_size,
        local_world_size=local_size,
        compute_device=device,
        hbm_cap=memory if device == "cuda" else 0,
        ddr_cap=memory,
    )
    reservation = FixedPercentageStorageReservation(percentage=_RESERVED)
    planner = EmbeddingShardingPlanner(
        topology=topology, constraints=constraints, storage_reservation=reservation
    )
    try:
        plan = planner.plan(model, make_sharders(optim))
    except PlannerError as error:
        need = sum(w.numel() * w.element_size() for w in tables.values())
        largest = max(tables, key=lambda name: tables[name].numel())
        raise ConfigError(
            f"the tables cannot be laid over {world_size} workers with {memory / GIB:.2f} GiB "
            f"each: weights alone take {need / GIB:.2f} GiB, the largest table is {largest} with "
            f"{tables[largest].shape[0]:,} rows × {tables[largest].shape[1]}. Use more --workers, "
            "--sharding.default row_wise, a smaller embedding_dim, a higher min_count, or "
            f"--sharding.memory_gb if there is more. (Planner: {_first_line(error)})"
        ) from error
    planned = {name for module in plan.plan.values() for name in module}  # type: ignore[attr-defined]
    lost = sorted(set(tables) - planned)
    assert not lost, f"the planner dropped tables: {lost}"
    return plan


def table_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name of each table and its weight, on the meta device."""
    for name, weight in model.named_parameters():
        if ".embedding_bags." in f".{name}":
            yield name.rpartition("embedding_bags.")[2].removesuffix(".weight"), weight


def layout(plan: ShardingPlan, model: nn.Module, optim: OptimConfig, world_size: int) -> Layout:
    """A plan in plain values."""
    weights = dict(table_weights(model))
    shards: list[Shard] = []
    for module in plan.plan.values():
        for table, sharding in module.items():  # type: ignore[attr-defined]
            size = weights[table].element_size()
            spec = getattr(sharding, "sharding_spec", None)
            if spec is None:  # data parallel: a copy on each
                rows, columns = weights[table].shape
                parts = [(rank, (0, rows), (0, columns)) for rank in range(world_size)]
            else:
                parts = [
                    (
                        shard.placement.rank(),
                        (shard.shard_offsets[0], shard.shard_sizes[0]),
                        (shard.shard_offsets[1], shard.shard_sizes[1]),
                    )
                    for shard in spec.shards
                ]
            shards.extend(
                Shard(
                    table=table,
                    kind=sharding.sharding_type,
                    rank=rank,
                    rows=rows_part,
                    columns=columns_part,
                    bytes=rows_part[1] * columns_part[1] * size,
                )
                for rank, rows_part, columns_part in parts
            )
    return Layout(
        world_size=world_size,
        optimizer_state=_OPTIMIZER_BYTES[optim.tables.name],
        shards=tuple(shards),
    )


def _constraints(
    tables: dict[str, torch.Tensor], sharding: ShardingConfig, optim: OptimConfig
) -> dict[str, ParameterConstraints]:
    unknown = sorted(set(sharding.tables) - set(tables))
    if unknown:
        some = ", ".join(list(tables)[:6])
        raise ConfigError(
            f"sharding.tables: no table '{unknown[0]}'. Tables are named group/field; this model "
            f"has {len(tables)}: {some} …"
        )
    constraints = {}
    for table, weight in tables.items():
        kind = sharding.tables.get(table, sharding.default)
        dense = optim.tables.name == "adam"
        if dense and kind not in ("auto", "data_parallel"):
            raise ConfigError(
                f"sharding of {table}: {kind} cannot go with optim.tables.name = adam, which "
                "keeps a copy of each table on each worker. Use auto or data_parallel, or another "
                "optimiser (rowwise_adagrad, adagrad, sgd)."
            )
        if optim.tables.name == "lamb" and kind == "data_parallel":
            raise ConfigError(
                f"sharding of {table}: data_parallel cannot go with optim.tables.name = lamb, "
                "which exists as a kernel for sharded tables only. Use table_wise, row_wise or "
                "column_wise, or another optimiser."
            )
        kinds = ["data_parallel"] if dense else (_AUTO if kind == "auto" else [kind])
        smallest = min(4, int(weight.shape[1]))
        constraints[table] = ParameterConstraints(
            sharding_types=list(kinds), min_partition=smallest
        )
    return constraints


def _memory_per_worker(sharding: ShardingConfig, local_size: int) -> int:
    if sharding.memory_gb > 0:
        return math.floor(sharding.memory_gb * GIB)
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return psutil.virtual_memory().total // max(local_size, 1)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
