"""From a config and a data set to a sharded model with its optimisers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from ctrdist.config.experiment import Experiment
from ctrdist.data.counts import read_counts
from ctrdist.data.manifest import Dataset
from ctrdist.distributed.process_group import World, run_on_main
from ctrdist.errors import ConfigError
from ctrdist.losses.objective import training_loss_sum
from ctrdist.models.ctr import CTRModel
from ctrdist.models.registry import build_tower, check_loss
from ctrdist.models.tables import is_dense, padded_dim, table_of
from ctrdist.optim.ema import WeightEMA
from ctrdist.optim.fused import check_optim, fuse_table_optimizer
from ctrdist.optim.optimizers import Optimizers
from ctrdist.protocols import Output
from ctrdist.schema import Schema
from ctrdist.sharding.batch_norm import synchronise_batch_norm
from ctrdist.sharding.plan import Layout, layout, plan_tables, table_weights
from ctrdist.sharding.shard import shard_model
from ctrdist.training.device import prepare_device


@dataclass
class Engine:
    """Everything that computes."""

    experiment: Experiment
    dataset: Dataset
    world: World
    model: DistributedModelParallel
    """Batch → Output."""
    tower: nn.Module
    """The model's dense part, inside it."""
    optimizers: Optimizers
    layout: Layout
    """Which worker holds what."""
    ema: WeightEMA | None = None
    """Average of the weights, where optim.ema_decay asks for one."""
    watch: Callable[[Output, Tensor], None] | None = None
    """Shown what the model gives for rows of training and of evaluation, and their labels (B,)."""

    def loss_sum(self, output: Output, label_B: Tensor) -> Tensor:
        """() float32: what training minimises, summed over B rows."""
        if self.watch is not None:
            self.watch(output, label_B)
        return training_loss_sum(self.experiment.loss, output, label_B)

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint saves.

        With an average of the weights that is the model, and the trained weights lie beside it.
        """
        trained = {} if self.ema is None else {"trained": self.ema.trained()}
        return {**self.model_tensors(), **trained, "optim": self.optimizers.tensors()}

    def model_tensors(self) -> dict[str, Any]:
        """What evaluation needs of a checkpoint."""
        averages = {} if self.ema is None else self.ema.averages()
        return {"model": {**self.model.state_dict(), **averages}}

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the model computes with the average of its weights, where there is one."""
        return nullcontext() if self.ema is None else self.ema.in_place()

    def keep_averages(self) -> None:
        """Ends training: from now on the model computes with the average of its weights."""
        if self.ema is not None and not self.ema.exchanged:
            self.ema.exchange()


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large a model is."""

    table_parameters: int
    """Weights of all tables, alignment padding left out."""
    dense_parameters: int
    """All other weights."""
    table_bytes: int
    """Of the weights as stored."""


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
    """Counts weights."""
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
    """Plans on rank 0, shards and initialises; every rank calls it."""
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
