"""Builds a sharded model and its optimisers from a config and a data set."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from ctrdist.config.experiment import Experiment
from ctrdist.data.counts import read_counts
from ctrdist.data.manifest import Dataset
from ctrdist.distributed.process_group import World, run_on_main
from ctrdist.errors import ConfigError
from ctrdist.models.ctr import CTRModel
from ctrdist.models.registry import build_tower, check_loss
from ctrdist.models.tables import is_dense, padded_dim, table_of
from ctrdist.optim.ema import WeightEMA
from ctrdist.optim.fused import check_optim, fuse_table_optimizer
from ctrdist.optim.optimizers import Optimizers
from ctrdist.schema import Schema
from ctrdist.sharding.batch_norm import synchronise_batch_norm
from ctrdist.sharding.plan import Layout, layout, plan_tables, table_weights
from ctrdist.sharding.shard import shard_model
from ctrdist.training.device import prepare_device


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
    return CTRModel(schema, tower, experiment.sharding.tables_dtype)


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
        ema=WeightEMA(sharded.state_dict(), decay, dense) if decay else None,
    )
