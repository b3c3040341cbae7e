"""Plans which worker holds which part of which table.

TorchRec's planner decides on rank 0, under the constraints of the config.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from operator import add
from typing import Any

import torch
from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError, Stats
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import PoolingType

from ctrdist.config.experiment import ShardingConfig
from ctrdist.config.optimizers import OptimConfig
from ctrdist.errors import ConfigError
from ctrdist.models.tables import is_dense, is_wide, optimizer_key, optimizer_of, table_of
from ctrdist.sharding.memory import GIB, available_memory, explain_shortage
from ctrdist.sharding.replay import replay_plan
from ctrdist.sharding.sharders import AUTO, CODEBOOK_KINDS, codecs, make_sharders
from ctrdist.strict_json import to_text

_GB_PER_S = 1e6
"""TorchRec counts bandwidth in bytes per millisecond."""


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
    """Bytes of the weights, without optimiser state."""
    state_bytes: int
    """Bytes of the optimiser's state and of the average of the weights, if there is one."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A plan in plain values, to show, to log and to save."""

    world_size: int
    shards: tuple[Shard, ...]
    cost_per_rank: tuple[float, ...] = ()
    """The planner's estimate of each worker's time in the tables, ms; empty for a replayed plan."""

    @property
    def bytes_per_rank(self) -> list[int]:
        """Bytes of weights on each worker."""
        return self._per_rank("bytes")

    @property
    def state_bytes_per_rank(self) -> list[int]:
        """Bytes of the optimiser's state on each worker, and of the average of the weights."""
        return self._per_rank("state_bytes")

    @property
    def cost_imbalance(self) -> float | None:
        """Estimated time of the slowest worker, divided by the mean."""
        cost = self.cost_per_rank
        return max(cost) * len(cost) / sum(cost) if cost and sum(cost) else None

    @property
    def table_parameters(self) -> int:
        """Weights of all tables, copies not counted."""
        return sum(
            shard.rows[1] * shard.columns[1]
            for shard in self.shards
            if shard.kind != "data_parallel" or shard.rank == 0
        )

    @property
    def imbalance(self) -> float:
        """Bytes of the fullest worker, divided by the mean."""
        held = self.bytes_per_rank
        return max(held) * len(held) / max(sum(held), 1)

    def to_json(self) -> str:
        """JSON text, for the run's artifacts."""
        sums = ("bytes_per_rank", "state_bytes_per_rank", "imbalance", "cost_imbalance")
        return to_text({**asdict(self), **{n: getattr(self, n) for n in sums}}, indent=1)

    def _per_rank(self, size: str) -> list[int]:
        sums = [0] * self.world_size
        for shard in self.shards:
            sums[shard.rank] += getattr(shard, size)
        return sums


@dataclass(frozen=True)
class Planned:
    """TorchRec's plan and its planner's estimate."""

    plan: ShardingPlan
    cost_per_rank: tuple[float, ...]
    """Estimated ms of each worker; empty for a replayed plan."""


class _Costs(Stats):
    """Takes the estimates of the best plan from the planner."""

    def __init__(self) -> None:
        self.per_rank: tuple[float, ...] = ()

    def log(self, sharding_plan: ShardingPlan, topology: Topology, **known: Any) -> None:
        """Takes the choice of the planner, which calls this."""
        cost = [0.0] * topology.world_size
        for option in known["best_plan"]:
            copied = option.sharding_type == "data_parallel"
            for index, shard in enumerate(option.shards):
                cost[index if copied else shard.rank] += shard.perf.total
        self.per_rank = tuple(cost)


def plan_tables(
    model: nn.Module,
    sharding: ShardingConfig,
    optim: OptimConfig,
    *,
    world_size: int,
    local_size: int,
    device: str,
) -> Planned:
    """Lays the tables of a model on the meta device over the workers. Needs no process group.

    The model is a :class:`ctrdist.models.ctr.CTRModel`, the device cpu or cuda.

    Raises:
        ConfigError: a table name that does not exist, a kind that the optimiser cannot work with,
            tables that do not fit.
    """
    tables = dict(table_weights(model))
    check_tables(model, sharding, optim, device)
    if sharding.plan_file:
        plan = replay_plan(
            sharding.plan_file,
            tables,
            modules(model),
            dense=[table for table in tables if is_dense(table, optim)],
            world_size=world_size,
            local_size=local_size,
            device=device,
        )
        return Planned(plan, ())
    memory = _memory_per_worker(sharding, local_size, device)
    hashed = {c.name: c.ids_per_row for c in model.codebooks}  # type: ignore[union-attr]
    planner = EmbeddingShardingPlanner(
        topology=_topology(sharding, world_size, local_size, device, memory),
        constraints=_constraints(tables, hashed, sharding, optim, world_size, local_size),
        storage_reservation=FixedPercentageStorageReservation(percentage=sharding.reserved),
        stats=(costs := _Costs()),
    )
    shortage = partial(
        explain_shortage, tables, sharding, optim, world_size=world_size, memory=memory
    )
    try:
        plan = planner.plan(model, make_sharders(sharding, optim, device))
    except PlannerError as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ConfigError(f"{shortage()} (Planner: {said})") from error
    assert set(tables) == {name for module in plan.plan.values() for name in module}  # type: ignore[attr-defined]
    described = layout(Planned(plan, ()), model, optim, world_size)
    held = map(add, described.bytes_per_rank, described.state_bytes_per_rank)
    # the planner does not know the state of dense Adam and of LAMB in full, nor the average
    if max(held) > memory * (1 - sharding.reserved):
        raise ConfigError(shortage())
    return Planned(plan, costs.per_rank)


def table_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name of each table and its weight, on the meta device."""
    for name, weight in model.named_parameters():
        table = table_of(name)
        if table is not None:
            yield table, weight


def modules(model: nn.Module) -> dict[str, str]:
    """Name of each table → path of the collection in the model that holds it."""
    return {
        table: name.removesuffix(f".{table}.weight").rpartition(".")[0]
        for name, _ in model.named_parameters()
        if (table := table_of(name)) is not None
    }


def layout(planned: Planned, model: nn.Module, optim: OptimConfig, world_size: int) -> Layout:
    """A plan in plain values."""
    weights = dict(table_weights(model))
    shards: list[Shard] = []
    for module in planned.plan.plan.values():
        for table, sharding in module.items():  # type: ignore[attr-defined]
            size, optimizer = weights[table].element_size(), optimizer_of(table, optim).algorithm
            spec = getattr(sharding, "sharding_spec", None)
            if spec is None:  # data parallel: a copy on each
                parts = [(rank, (0, 0), weights[table].shape) for rank in range(world_size)]
            else:
                parts = [(s.placement.rank(), s.shard_offsets, s.shard_sizes) for s in spec.shards]
            shards.extend(
                Shard(
                    table=table,
                    kind=sharding.sharding_type,
                    rank=rank,
                    rows=(first[0], rows),
                    columns=(first[1], columns),
                    bytes=rows * columns * size,
                    state_bytes=optimizer.state_bytes(rows, columns, averaged=optim.ema_decay > 0),
                )
                for rank, first, (rows, columns) in parts
            )
    return Layout(world_size=world_size, shards=tuple(shards), cost_per_rank=planned.cost_per_rank)


def _constraints(
    tables: dict[str, torch.Tensor],
    ids_per_row: dict[str, int],
    sharding: ShardingConfig,
    optim: OptimConfig,
    world_size: int,
    local_size: int,
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
        optimizer = optimizer_of(table, optim)
        dense = optimizer.algorithm.dense
        setting = f"{optimizer_key(table, optim)} = {optimizer.name}"
        if dense and kind not in ("auto", "data_parallel"):
            raise ConfigError(
                f"sharding of {table}: {kind} cannot go with {setting}, which keeps a "
                "copy of each table on each worker. Use auto or data_parallel, or another "
                "optimiser (rowwise_adagrad, adagrad, sgd)."
            )
        if kind == "data_parallel" and not dense and not optimizer.algorithm.replicated:
            raise ConfigError(
                f"sharding of {table}: data_parallel cannot go with {setting}, which exists as "
                "a kernel for sharded tables only. Use table_wise, row_wise or column_wise, or "
                "another optimiser."
            )
        kinds = ["data_parallel"] if dense else (AUTO if kind == "auto" else [kind])
        if is_wide(table) and kind not in CODEBOOK_KINDS and table not in sharding.tables:
            kinds = AUTO  # the other kinds cut wide rows in two ways, and these have four columns
        if table in ids_per_row and not set(kinds) <= set(CODEBOOK_KINDS):
            if table in sharding.tables:
                raise ConfigError(
                    f"sharding of {table}: {kind} is for the fields' tables only, whose rows are "
                    f"pooled. Use one of {', '.join(CODEBOOK_KINDS)}."
                )
            kinds = AUTO
        rows = int(weight.shape[0])
        cut = {"row_wise": world_size, "table_row_wise": local_size, "grid_shard": local_size}
        too_small = {name for name, parts in cut.items() if _leaves_one_empty(rows, parts)}
        if sharding.tables.get(table) in too_small:
            raise ConfigError(
                f"sharding of {table}: {kind} cuts its {rows} rows into {cut[kind]} parts of "
                f"{-(-rows // cut[kind])}, which leaves a worker without any. Use table_wise."
            )
        # the default kind gives way for a small table that it would cut into empty parts
        kinds = [name for name in kinds if name not in too_small] or ["table_wise"]
        smallest = min(sharding.min_columns, int(weight.shape[1]))
        constraints[table] = ParameterConstraints(
            sharding_types=kinds,
            min_partition=smallest,
            pooling_factors=[float(ids_per_row.get(table, 1))],
        )
    return constraints


def _leaves_one_empty(rows: int, parts: int) -> bool:
    """True if the last part gets no row: FBGEMM on the CPU cannot hold such a table."""
    return -(-rows // parts) * (parts - 1) >= rows


def check_tables(
    model: nn.Module, sharding: ShardingConfig, optim: OptimConfig, device: str
) -> None:
    """Refuses sharding settings that would fail later or silently compute something else.

    Raises:
        ConfigError: names the setting, the table where it is about one, and what is allowed.
    """
    codecs(sharding, device)
    for name, most in (("reserved", 0.95), ("intra_host_gbps", 1e9), ("inter_host_gbps", 1e9)):
        if not 0 <= getattr(sharding, name) <= most:
            raise ConfigError(f"sharding.{name} = {getattr(sharding, name)}: from 0 to {most:g}.")
    if sharding.min_columns < 4 or sharding.min_columns % 4:
        raise ConfigError(
            f"sharding.min_columns = {sharding.min_columns}: a multiple of 4, which is what "
            "FBGEMM's kernels read at once."
        )
    half = sharding.tables_dtype
    if half == "bfloat16" and device == "cpu":
        raise ConfigError(
            "sharding.tables_dtype = bfloat16 needs a GPU: FBGEMM has no such lookup for the CPU. "
            "Use float16 or float32."
        )
    dense = any(is_dense(table, optim) for table, _ in table_weights(model))
    kinds = {"data_parallel"} if dense else set()
    kinds |= {sharding.default, *sharding.tables.values()}
    if half != "float32" and "data_parallel" in kinds:
        raise ConfigError(
            f"sharding.tables_dtype = {half} goes with sharded tables only: copies of a table "
            "(data_parallel, and all tables whose optimiser is adam) are float32."
        )
    for config in model.tables.embedding_bag_configs():  # type: ignore[union-attr, operator]
        kind = sharding.tables.get(config.name, sharding.default)
        if kind == "grid_shard" and config.pooling == PoolingType.MEAN:
            raise ConfigError(
                f"sharding of {config.name}: grid_shard cannot go with a multi-valued field, whose "
                "mean TorchRec does not take over the grid's rows. Use row_wise or table_row_wise."
            )


def _topology(
    sharding: ShardingConfig, world_size: int, local_size: int, device: str, memory: int
) -> Topology:
    speeds = {"intra_host_bw": sharding.intra_host_gbps, "inter_host_bw": sharding.inter_host_gbps}
    return Topology(
        world_size=world_size,
        local_world_size=local_size,
        compute_device=device,
        hbm_cap=memory if device == "cuda" else 0,
        ddr_cap=memory,
        **{name: speed * _GB_PER_S for name, speed in speeds.items() if speed},
    )


def _memory_per_worker(sharding: ShardingConfig, local_size: int, device: str) -> int:
    if sharding.memory_gb > 0:
        return math.floor(sharding.memory_gb * GIB)
    if device == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return available_memory() // max(local_size, 1)
