"""Builds a sharded model and its optimisers, and checks that device and checkpoint suit them."""

import ctypes
import math
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from ctrdist.checkpoint.store import Opened
from ctrdist.config.experiment import Experiment
from ctrdist.config.losses import LossConfig
from ctrdist.config.parse import to_dict
from ctrdist.data.counts import read_counts
from ctrdist.data.manifest import Dataset
from ctrdist.distributed.process_group import World, run_on_main
from ctrdist.errors import CheckpointError, ConfigError
from ctrdist.models import gpu_ops
from ctrdist.models.ctr import CTRModel
from ctrdist.models.id_counts import InverseCounts
from ctrdist.models.registry import build_tower, check_loss
from ctrdist.models.tables import is_dense, padded_dim, table_of
from ctrdist.optim.ema import WeightEMA
from ctrdist.optim.fused import check_optim, fuse_table_optimizer
from ctrdist.optim.optimizers import Optimizers
from ctrdist.schema import Schema
from ctrdist.sharding.batch_norm import synchronise_batch_norm
from ctrdist.sharding.plan import Layout, layout, plan_tables, table_weights
from ctrdist.sharding.shard import shard_model

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = 2**29
"""Larger blocks, which are tables, still go back to the system when they are freed."""


@dataclass
class Engine:
    """The model of a run with all that computes its steps."""

    experiment: Experiment
    dataset: Dataset
    world: World
    model: DistributedModelParallel
    """Batch → Output."""
    tower: nn.Module
    """The model's dense part, inside it."""
    optimizers: Optimizers
    layout: Layout
    """The parts of the tables on each worker."""
    counts: InverseCounts | None = None
    """Training counts of ids; None where neither wide part nor optim.tables.occurrence_l2 asks."""
    ema: WeightEMA | None = None
    """Average of the weights; None where optim.ema_decay is 0."""

    def autocast(self) -> torch.autocast:
        """The context in which the tower computes, by train.precision."""
        precision = self.experiment.train.precision
        dtype = torch.float16 if precision == "float16" else torch.bfloat16
        half = precision in ("bfloat16", "float16")
        return torch.autocast(self.world.device.type, dtype=dtype, enabled=half)

    def tensors(self) -> dict[str, Any]:
        """The tensors of a checkpoint: model and optimisers.

        With an average of the weights the model has the averages, and the trained weights are saved
        as "trained".
        """
        trained = {} if self.ema is None else {"trained": self.ema.trained()}
        return {**self.model_tensors(), **trained, "optim": self.optimizers.tensors()}

    def model_tensors(self) -> dict[str, Any]:
        """The tensors of a checkpoint that evaluation needs."""
        averages = {} if self.ema is None else self.ema.averages()
        return {"model": {**self.model.state_dict(), **averages}}

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model computes with the average of its weights, if it has one."""
        return nullcontext() if self.ema is None else self.ema.in_place()


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Size of a model."""

    table_parameters: int
    """Weights of all tables, alignment padding left out."""
    dense_parameters: int
    """All other weights."""
    table_bytes: int
    """Bytes of all tables' weights, alignment padding included."""


def build_model(experiment: Experiment, schema: Schema) -> CTRModel:
    """The model of an experiment: tables on the meta device, dense weights drawn from the seed.

    Raises:
        ConfigError: the schema has no categorical field, or the settings of model or loss cannot
            work.
    """
    check_loss(experiment.loss, experiment.model_name)
    if not schema.categorical:
        raise ConfigError(
            f"data set {schema.name} has no categorical field, and a model needs at least one "
            "table. Give a column of the data-set YAML the role categorical, or numeric columns "
            "--numeric_as bucket."
        )
    torch.manual_seed(experiment.train.seed)
    tower = build_tower(experiment.model_name, experiment.model, schema.num_fields)
    wide: bool = experiment.model.wide
    shift = math.log(experiment.train.negatives_kept)
    return CTRModel(schema, tower, experiment.sharding.tables_dtype, wide, shift)


def sizes(model: CTRModel, schema: Schema) -> Sizes:
    """Counts the weights of a model."""
    rows = sum(field.vocabulary_size for field in schema.categorical)
    codebooks = {codebook.name for codebook in model.codebooks}
    groups: dict[str, int] = dict(model.tower.groups)  # type: ignore[arg-type]
    dense = sum(p.numel() for name, p in model.named_parameters() if table_of(name) is None)
    hashed = sum(
        p.numel() for name, p in model.named_parameters() if (table_of(name) or "") in codebooks
    )
    return Sizes(
        table_parameters=rows * sum(groups.values()) + hashed,
        dense_parameters=dense,
        table_bytes=4 * (rows * sum(padded_dim(dim) for dim in groups.values()) + hashed),
    )


def build_engine(experiment: Experiment, dataset: Dataset, world: World) -> Engine:
    """Plans on rank 0, shards the model and fills its tables; every rank calls it."""
    check_optim(experiment.optim, world.device.type)
    prepare_device(experiment, world.device.type)
    model = build_model(experiment, dataset.schema)
    fuse_table_optimizer(model, experiment.optim)
    planned = run_on_main(
        lambda: plan_tables(
            model,
            experiment.sharding,
            experiment.optim,
            world_size=world.size,
            local_size=world.local_size,
            device=world.device.type,
        )
    )
    described = layout(planned, model, experiment.optim, world.size)
    if model.frequency is not None:
        counts = run_on_main(lambda: read_counts(dataset))
        model.frequency.fill(counts.ends, counts.mean, counts.std, counts.of_all)
    inverse: InverseCounts | None = None
    all_known: list[str] = []
    if model.wide is not None or experiment.optim.tables.occurrence_l2:
        counts = run_on_main(lambda: read_counts(dataset, strict=False))
        inverse = InverseCounts(counts.ends, counts.unknown).to(world.device)
        fields = zip(dataset.schema.categorical, counts.unknown, strict=True)
        all_known = [field.name for field, unknown in fields if unknown == 0]
    tower = model.tower
    if world.size > 1 and experiment.train.sync_batch_norm:
        synchronise_batch_norm(tower)
    sharded = shard_model(
        model,
        planned.plan,
        experiment.sharding,
        experiment.optim,
        world,
        seed=experiment.train.seed,
        init_std=experiment.train.embedding_init_std,
        all_known=all_known,
    )
    if experiment.train.compile:
        tower.compile(dynamic=False)  # in place: names of weights stay
    decay = experiment.optim.ema_decay
    dense = {table for table, _ in table_weights(model) if is_dense(table, experiment.optim)}
    return Engine(
        experiment=experiment,
        dataset=dataset,
        world=world,
        model=sharded,
        tower=tower,
        optimizers=Optimizers(sharded, experiment.optim),
        layout=described,
        counts=inverse,
        ema=WeightEMA(sharded.state_dict(), decay, dense) if decay else None,
    )


def prepare_device(experiment: Experiment, device: str) -> None:
    """Sets the switches that the settings need on a device, cpu or cuda.

    Raises:
        ConfigError: the device does not support a setting; says what is allowed.
    """
    train, loader = experiment.train, experiment.loader
    if train.precision == "float16" and device == "cpu":
        raise ConfigError(
            "train.precision = float16 needs a GPU. Use bfloat16, which needs no scaled loss, or "
            "float32."
        )
    if train.precision == "tf32" and device == "cpu":
        raise ConfigError(
            "train.precision = tf32 needs an NVIDIA GPU: CPUs have no such products. Use bfloat16 "
            "or float32."
        )
    if train.kernels == "triton" and device == "cpu":
        raise ConfigError(
            "train.kernels = triton needs an NVIDIA GPU. Leave train.kernels out on CPUs."
        )
    gpu_ops.use_kernels(train.kernels == "triton")
    torch.set_float32_matmul_precision("high" if train.precision == "tf32" else "highest")
    if not 1 <= loader.accumulate <= loader.batch_size:
        raise ConfigError(
            f"loader.accumulate = {loader.accumulate}: micro-batches of a step, from 1 to "
            f"loader.batch_size = {loader.batch_size}."
        )
    if train.compile and not has_compiler():
        raise ConfigError(
            "train.compile = true needs a C++ compiler, and none was found: install g++ or clang, "
            "or name one in the environment variable CXX; or leave train.compile out."
        )
    if train.deterministic:
        # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(train.deterministic)
    if device == "cpu":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Makes this process keep the memory that a step frees, so that the next step uses it again.

    By default glibc gives large blocks back to the system, which must clear and map each of their
    pages again in every step: on a virtual machine that alone can take longer than the computation.
    This has no effect with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # the largest int
        mallopt(_M_ARENA_MAX, 1)  # other threads' arenas ignore these settings


def has_compiler() -> bool:
    """Tells if torch.compile will find a C++ compiler."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return any(shutil.which(name) for name in names)


def check_same_model(saved: Opened, experiment: Experiment, schema_json: str) -> None:
    """Refuses a checkpoint of another model, loss, table optimiser or schema.

    Raises:
        CheckpointError: names the first setting that differs.
    """
    theirs = _compared(yaml.safe_load(saved.texts.config))
    for key, new in _compared(to_dict(experiment)).items():
        old = theirs.get(key)
        if old != new:
            raise CheckpointError(
                f"{saved.path}: was made with {key} = {old!r}, this run has {key} = {new!r}. "
                f"Use the same settings (--config {saved.path}/config.yaml), or another "
                "--run-name to begin anew."
            )
    check_same_data(saved, schema_json)


def _compared(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that a checkpoint and its run must share; defaults where an old config has none."""
    optim = config["optim"]
    loss = config.get("loss", to_dict(LossConfig()))
    return {
        "model_name": config.get("model_name"),
        "label": config.get("label", ""),
        "train.negatives_kept": config["train"].get("negatives_kept", 1.0),
        "model.wide": False,  # unless the config says otherwise; older ones do not
        **{f"model.{key}": value for key, value in config.get("model", {}).items()},
        **{f"loss.{key}": value for key, value in loss.items()},
        "optim.tables.name": optim["tables"]["name"],
        "optim.codebooks.name": (optim.get("codebooks") or optim["tables"])["name"],
        "sharding.tables_dtype": config["sharding"].get("tables_dtype", "float32"),
        "optim.ema_decay above 0": optim.get("ema_decay", 0.0) > 0,
    }


def check_same_data(saved: Opened, schema_json: str) -> None:
    """Refuses a checkpoint of other fields or vocabularies.

    Raises:
        CheckpointError: the schemas differ.
    """
    if saved.texts.schema != schema_json:
        raise CheckpointError(
            f"{saved.path}: was made with data of another schema (its fields or vocabularies "
            "differ). Give --data the directory that it was trained on, or begin anew: another "
            "--run-name."
        )
