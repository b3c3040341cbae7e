"""Memory that tables and their optimiser's state need, and advice where there is too little."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from torch import Tensor

from ctrdist.config.experiment import ShardingConfig
from ctrdist.config.optimizers import TABLE_OPTIMIZERS, OptimConfig
from ctrdist.models.tables import optimizer_key, optimizer_of

GIB = 2**30
_SPLIT_ROWS = ("auto", "row_wise", "table_row_wise", "grid_shard")
_SPLIT_COLUMNS = ("auto", "column_wise", "table_column_wise", "grid_shard")


@dataclass(frozen=True, kw_only=True)
class _Need:
    """A table, and the bytes that it takes."""

    table: str
    rows: int
    columns: int
    kind: str
    optimizer: str
    weights: int
    state: int
    part: int
    """Bytes of its smallest part under this kind."""


def explain_shortage(
    tables: Mapping[str, Tensor],
    sharding: ShardingConfig,
    optim: OptimConfig,
    *,
    world_size: int,
    memory: int,
) -> str:
    """Names the table that does not fit, or the bytes that all lack, and what would make them fit.

    `tables` are name → weight, on the meta device; `memory` is the bytes of each worker.
    """
    room = math.floor(memory * (1 - sharding.reserved))
    have = (
        f"{room:,} bytes ({room / GIB:.2f} GiB) for tables on each of {world_size} workers: "
        f"{memory / GIB:.2f} GiB less sharding.reserved = {sharding.reserved}"
    )
    needs = [_need(*table, sharding, optim, world_size) for table in tables.items()]
    worst = max(needs, key=lambda need: need.part)
    size = f"{worst.rows:,} rows × {worst.columns}"
    if worst.part > room:
        remedies = _remedies(worst, tables[worst.table].element_size(), optim, room)
        return (
            f"table {worst.table} does not fit: {size} take {worst.weights:,} bytes and their "
            f"{worst.optimizer} state {worst.state:,}; its smallest part under {worst.kind} is "
            f"{worst.part:,} bytes, {worst.part - room:,} more than there are: {have}. "
            f"What would make it fit: {', '.join(remedies[:-1])} or {remedies[-1]}."
        )
    copied = sum(n.weights + n.state for n in needs if n.kind == "data_parallel")
    split = sum(n.weights + n.state for n in needs) - copied
    total = split + copied * world_size
    if total > room * world_size:
        least = "another sharding kind or optimiser, as each worker holds a copy"
        if copied < room:
            least = f"--workers {-(-split // (room - copied))}"
        return (
            f"the tables with their {' and '.join(sorted({n.optimizer for n in needs}))} state "
            f"take {total:,} bytes on all workers, {total - room * world_size:,} more than there "
            f"are: {have}. The largest table is {worst.table} with {size}. What would make them "
            f"fit: {least}, a smaller optimiser state (rowwise_adagrad, sgd), a smaller "
            "embedding_dim, a higher min_count, or --sharding.memory_gb if there is more."
        )
    return (
        f"the tables take {total:,} bytes, which could fit ({have}), but not with these kinds and "
        f"what a step needs beside them. The largest part is of {worst.table}. Use "
        "--sharding.default row_wise, which splits evenly, more --workers, a smaller "
        "loader.batch_size, or --sharding.memory_gb if there is more."
    )


def _need(
    table: str, weight: Tensor, sharding: ShardingConfig, optim: OptimConfig, world_size: int
) -> _Need:
    rows, columns = (int(size) for size in weight.shape)
    optimizer = optimizer_of(table, optim)
    kind = sharding.tables.get(table, sharding.default)
    kind = "data_parallel" if optimizer.algorithm.dense else kind
    ways = 1  # the most parts into which the kind can split the table
    if kind in _SPLIT_ROWS:
        ways = min(world_size, rows)
    elif kind in _SPLIT_COLUMNS:
        ways = min(world_size, max(1, columns // sharding.min_columns))
    weights = rows * columns * weight.element_size()
    state = optimizer.algorithm.state_bytes(rows, columns, averaged=optim.ema_decay > 0)
    return _Need(
        table=table,
        rows=rows,
        columns=columns,
        kind=kind,
        optimizer=optimizer.name,
        weights=weights,
        state=state,
        part=-(-(weights + state) // ways),
    )


def _remedies(need: _Need, element_size: int, optim: OptimConfig, room: int) -> list[str]:
    workers = -(-(need.weights + need.state) // room)
    dense = TABLE_OPTIMIZERS[need.optimizer].dense
    found = []
    if need.kind in _SPLIT_ROWS:
        found.append(f"--workers {workers}")
    elif not dense:
        found.append(f"--sharding.tables.{need.table} row_wise and at least {workers} workers")
    state = {n: o.state_bytes(need.rows, need.columns) for n, o in TABLE_OPTIMIZERS.items()}
    smaller = [n for n in ("rowwise_adagrad", "sgd") if state[n] < state[need.optimizer]]
    if smaller:
        found.append(f"--{optimizer_key(need.table, optim)} {smaller[0]}, with less state")
    if optim.ema_decay > 0 and dense:
        found.append("--optim.ema_decay 0, without an average of the weights")
    if element_size == 4 and not dense:
        found.append("--sharding.tables_dtype float16")
    narrower = need.columns * room // need.part // 4 * 4
    if narrower:
        found.append(f"an embedding_dim of about {narrower}")
    found.append("a higher min_count, which makes fewer rows")
    found.append("--sharding.memory_gb if there is more")
    return found


def available_memory(
    cgroups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int:
    """Bytes of memory for the processes here: the machine's, or less if a container limits it.

    Args:
        cgroups: where control groups are mounted, of version 1 or 2.
        membership: names the control groups of this process.
    """
    limits = [psutil.virtual_memory().total]
    for line in membership.read_text().splitlines() if membership.exists() else []:
        _, controllers, path = line.split(":", 2)
        base, name = cgroups, "memory.max"
        if controllers:  # version 1, which has a tree for each controller
            base, name = cgroups / "memory", "memory.limit_in_bytes"
            if "memory" not in controllers.split(","):
                continue
        group = base / path.lstrip("/")
        # each group above limits it too; inside a container only the mount's own may be visible
        for folder in (group, *(above for above in group.parents if base in above.parents), base):
            with suppress(OSError, ValueError):  # not there, or "max"
                limits.append(int((folder / name).read_text()))
    return min(limits)
