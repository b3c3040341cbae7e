"""Repeats the placement of an earlier run, from the plan.json in its checkpoints."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingPlan

from ctrdist.errors import ConfigError
from ctrdist.sharding.torchrec_internals import EnumerableShardingSpec, ShardMetadata
from ctrdist.storage import open_file


def replay_plan(
    path: str,
    tables: Mapping[str, Tensor],
    modules: Mapping[str, str],
    *,
    dense: Collection[str],
    world_size: int,
    local_size: int,
    device: str,
) -> ShardingPlan:
    """Places tables as the plan.json of an earlier run does, local or s3://.

    `tables` are name → weight, on the meta device; `modules` are name → path of the collection in
    the model that holds it. Each worker has a copy of the `dense` tables, under the dense Adam.

    Raises:
        ConfigError: the file cannot be read, or was made for other workers, tables or optimisers.
    """
    shards = _read(path, world_size)
    missing = sorted(set(tables) - set(shards))
    foreign = sorted(set(shards) - set(tables))
    if missing:
        raise _differs(path, f"this model's table {missing[0]} is not in it")
    if foreign:
        raise _differs(path, f"its table {foreign[0]} is not in this model")
    plans = {module: EmbeddingModuleShardingPlan() for module in modules.values()}
    for table, weight in tables.items():
        parts = shards[table]
        kind = parts[0]["kind"]
        copied = kind == "data_parallel"
        shape = tuple(max(sum(part[axis]) for part in parts) for axis in ("rows", "columns"))
        if shape != tuple(weight.shape):
            raise _differs(
                path,
                f"table {table} has {shape[0]:,} rows × {shape[1]} there, and "
                f"{weight.shape[0]:,} × {weight.shape[1]} here",
            )
        if table in dense and not copied:
            raise _differs(
                path,
                f"table {table} is {kind} there, and its optimiser here, adam, keeps a copy on "
                "each worker",
            )
        cuts = [
            ShardMetadata(
                shard_sizes=[part["rows"][1], part["columns"][1]],
                shard_offsets=[part["rows"][0], part["columns"][0]],
                placement=placement(device, part["rank"], local_size),
            )
            for part in parts
        ]
        kernel = EmbeddingComputeKernel.DENSE if copied else EmbeddingComputeKernel.FUSED
        plans[modules[table]][table] = ParameterSharding(
            sharding_type=kind,
            compute_kernel=kernel.value,
            ranks=[part["rank"] for part in parts],
            sharding_spec=None if copied else EnumerableShardingSpec(cuts),
        )
    return ShardingPlan(dict(plans))


def _read(path: str, world_size: int) -> dict[str, list[dict[str, Any]]]:
    """Parts by table, in the order of the plan."""
    try:
        with open_file(path) as file:
            saved = json.load(file)
        theirs, found = saved["world_size"], saved["shards"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"sharding.plan_file = {path}: no plan could be read there ({error}). Give the "
            "plan.json of a checkpoint: runs/NAME/checkpoints/step-…/plan.json."
        ) from error
    if theirs != world_size:
        raise _differs(path, f"it is for {theirs} workers, and this run has {world_size}")
    shards: dict[str, list[dict[str, Any]]] = {}
    for part in found:
        shards.setdefault(part["table"], []).append(part)
    return shards


def _differs(path: str, difference: str) -> ConfigError:
    return ConfigError(
        f"sharding.plan_file = {path} does not fit this run: {difference}. Leave plan_file out to "
        "plan anew, or use the settings that it was made with."
    )
