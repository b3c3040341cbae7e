"""Settings of a training run: one dataclass per component, assembled into :class:`Experiment`."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Any, Literal

ShardingKind = Literal[
    "auto",
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
    "data_parallel",
]


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How rows reach the model."""

    batch_size: int = 4096
    """Rows of a step on all workers together.
    The last two steps of an epoch share what is left evenly."""
    shuffle_rows: int = 524288
    """Rows of a shuffle window; 0: as stored.
    Row groups are drawn in random order, rows are permuted within a window."""
    prefetch: int = 4
    """Batches that are made ready ahead of the step."""


@dataclass(frozen=True, kw_only=True)
class TableOptimConfig:
    """Optimiser of the embedding tables."""

    name: Literal["rowwise_adagrad", "adagrad", "sgd", "adam"] = "rowwise_adagrad"
    """The first three are fused into the backward pass.
    adam is dense: for tables that fit, with whole-table L2."""
    lr: float = 0.01
    """Learning rate."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    l2: float = 0.0
    """λ: adds (λ/2)·Σ‖table‖² over all rows of all tables to each step's loss. Only with adam."""


@dataclass(frozen=True, kw_only=True)
class DenseOptimConfig:
    """Adam for everything but the tables."""

    lr: float = 0.001
    """Learning rate."""
    beta1: float = 0.9
    """Decay of the first moment; also for tables under adam."""
    beta2: float = 0.999
    """Decay of the second moment; also for tables under adam."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    l2: float = 0.0
    """Adds (l2/2)·Σ‖w‖² of the dense weights to the loss."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimisers."""

    tables: TableOptimConfig = field(default_factory=TableOptimConfig)
    """Of the embedding tables."""
    dense: DenseOptimConfig = field(default_factory=DenseOptimConfig)
    """Of everything else."""
    max_grad_norm: float = 10.0
    """Bound of the gradient norm of dense weights, and of tables under adam; 0 switches it off."""


@dataclass(frozen=True, kw_only=True)
class ShardingConfig:
    """How tables are laid over the workers."""

    default: ShardingKind = "auto"
    """auto lets TorchRec's planner choose.
    The others force that kind and leave the placement to the planner."""
    tables: dict[str, ShardingKind] = field(default_factory=dict)
    """Exceptions: name of a table (group.field) → kind."""
    memory_gb: float = 0.0
    """Memory for tables per worker in GiB; 0: what the machine has, divided by its workers."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written. One is written at the end of every epoch in any case."""

    every_steps: int = 1000
    """Also after so many steps; 0 switches it off."""
    asynchronous: bool = True
    """Steps go on while a checkpoint is written from a copy in memory.
    The copy takes as much CPU memory as the worker's part of the checkpoint; off: steps wait."""
    directory: str = ""
    """Where checkpoints go, local or s3://, in a directory of the run's name.
    Empty: checkpoints/ in the run's directory."""
    keep: int = 2
    """Newest checkpoints to keep."""
    keep_best: int = 1
    """Best checkpoints to keep beside these, by train.monitor; the best of all always stays."""
    keep_every: int = 0
    """Checkpoints of steps divisible by this are kept for good; 0: none."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """What is recorded where. A JSONL file in the run's directory has everything in any case."""

    mlflow: bool = True
    """Whether MLflow is used: the server at MLFLOW_TRACKING_URI, or SQLite in `runs`."""
    experiment: str = "ctrdist"
    """MLflow experiment."""
    every_steps: int = 20
    """Steps between two points of the step metrics."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop."""

    epochs: int = 10
    """Most epochs."""
    max_steps: int = 0
    """Ends training after so many steps; 0: no bound."""
    seed: int = 2024
    """Of initialisation, row order and dropout."""
    monitor: Literal["auc", "logloss", "auc-logloss", "ne", "gauc", "auc+gauc"] = "auc"
    """What decides which epoch is best, on the valid split."""
    patience: int = 2
    """Epochs in a row without improvement that end training; each cuts the learning rates."""
    lr_factor: float = 0.1
    """Factor for both learning rates after an epoch without improvement."""
    min_lr: float = 1e-6
    """Lower bound of the dense learning rate."""
    min_delta: float = 1e-6
    """Smallest change of the monitor that counts as improvement."""
    eval_batch_size: int = 8192
    """Rows of an evaluation step on all workers together."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the tower under autocast; tables, logits and loss stay float32."""
    sync_batch_norm: bool = True
    """Batch normalisation over all workers' rows, so that results do not depend on their number;
    off: each its own."""
    embedding_init_std: float = 1e-4
    """Tables start as N(0, std²), row 0 as zero."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a training run depends on."""

    data: str = ""
    """Directory that jobs/preprocess.py wrote: local or s3://."""
    run_name: str = ""
    """Name of the run and of its directory; started again under the same name it goes on.
    Empty: model, data, time."""
    runs: str = "runs"
    """Directory of all runs; CTRDIST_RUNS replaces this default."""
    workers: int = 1
    """Worker processes, one per GPU or CPU share."""
    model_name: str = ""
    """Name in the registry of models; each job sets its own."""
    model: Any = None
    """Settings of the model."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """How rows reach the model."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimisers."""
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    """How tables are laid over the workers."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The loop."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """What is recorded where."""


def experiment_of(model_name: str, model_config: type) -> type[Experiment]:
    """The experiment dataclass of one model, with that model's settings and its name."""
    return make_dataclass(
        "Experiment",
        [
            ("model_name", Literal[model_name], model_name),  # type: ignore[valid-type]
            ("model", model_config, field(default_factory=model_config)),
        ],
        bases=(Experiment,),
        namespace={"__doc__": "Settings of the run."},
        frozen=True,
        kw_only=True,
    )
