"""Settings of a training run: one dataclass per component, assembled into :class:`Experiment`."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Any, Literal

from ctrdist.config.auto import automatic
from ctrdist.config.losses import LossConfig
from ctrdist.config.optimizers import OptimConfig
from ctrdist.config.paths import IS_PATH, runs_directory
from ctrdist.errors import ConfigError

ShardingKind = Literal[
    "auto",
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
    "grid_shard",
    "data_parallel",
]
CommType = Literal["float32", "float16", "bfloat16", "int8", "fp8"]


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Reading of rows."""

    batch_size: int = 4096
    """Rows of a step on all workers together.
    The last two steps of an epoch share what is left evenly."""
    shuffle_rows: int = 524288
    """Rows of the shuffle buffers of all interleaved streams together; 0: stored order.
    Row groups are drawn in random order, and rows are permuted within a buffer."""
    lanes: int = 16
    """Interleaved streams into which an epoch is divided, so that a worker reads only its own.
    They are part of the row order. With fewer than workers, some workers read the same rows."""
    threads: int = 2
    """Threads of a worker that read and decode."""
    prefetch: int = 4
    """Batches that are prepared ahead of the step."""
    accumulate: int = 1
    """Micro-batches of a step, which the tower computes one after another to save memory.
    Tables are looked up and updated once, so only batch statistics differ from a whole step."""


@dataclass(frozen=True, kw_only=True)
class ShardingConfig:
    """Distribution of the tables over the workers."""

    default: ShardingKind = "auto"
    """auto lets TorchRec's planner choose.
    The others force that kind and leave the placement to the planner."""
    tables: dict[str, ShardingKind] = field(default_factory=dict)
    """Exceptions: name of a table (group/field) → kind."""
    memory_gb: float = 0.0
    """Memory for tables per worker in GiB; 0: what the machine has, divided by its workers."""
    cpu_kernel: bool = True
    """On CPU workers, whether fused tables use our kernel on all threads of a worker.
    false: FBGEMM's, which updates on one."""
    shared_memory: bool = True
    """CPU workers of one machine exchange ids and vectors through shared memory, where every field
    has one id per row and all tables use our kernel. false: through TorchRec's collectives."""
    reserved: float = 0.15
    """Share of that memory that is reserved for the tower, activations and batches."""
    intra_host_gbps: float = 0.0
    """Bandwidth between workers of one machine, GB/s, for the planner; 0: TorchRec's assumption."""
    inter_host_gbps: float = 0.0
    """Bandwidth between machines, GB/s, for the planner; 0: TorchRec's assumption."""
    min_columns: int = 4
    """Narrowest part that a column-wise kind may cut; a multiple of 4. Bounds the number of parts:
    a table of 16 columns has at most 16 / min_columns."""
    plan_file: str = field(default="", metadata=IS_PATH)
    """plan.json of an earlier run, in its checkpoints: use its placement instead of planning."""
    tables_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format of stored tables; looked-up rows and the optimiser's state stay float32."""
    forward_comm: CommType = "float32"
    """Number format of looked-up rows between workers. int8 and fp8 need GPUs."""
    backward_comm: CommType = "float32"
    """Number format of their gradients between workers."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Times at which checkpoints are written, in addition to the end of every epoch."""

    every_steps: int = 1000
    """Steps between two checkpoints; 0: none by steps."""
    every_seconds: float = 300.0
    """Seconds between two checkpoints, which bound the loss by a kill; 0: none by time."""
    asynchronous: bool = True
    """Write from a copy in memory while training continues.
    The copy takes as much CPU memory as the worker's part of the checkpoint; off: steps wait."""
    directory: str = field(default="", metadata=IS_PATH)
    """Directory for checkpoints, local or s3://; they go to a folder with the run's name.
    Empty: checkpoints/ in the run's directory."""
    keep: int = 2
    """Number of newest checkpoints to keep."""
    keep_best: int = 1
    """Number of best checkpoints by train.monitor to keep as well; the very best always stays."""
    keep_every: int = 0
    """Keep checkpoints of steps that are divisible by this for ever; 0: none."""


@dataclass(frozen=True, kw_only=True)
class FaultConfig:
    """Reaction to failures."""

    max_restarts: int = 3
    """Restarts of the workers from the newest checkpoint after one has failed; −1: without bound.
    Wrong settings, bad data, a loss that is not finite and other errors that would come again end
    the run at once."""
    step_timeout_s: float = 1800.0
    """Seconds after which a step, a batch of an evaluation or a checkpoint counts as hung: each
    worker writes its Python stacks to the run's stacks/ and ends with an error; 0: never."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Tracking of the run, in addition to events.jsonl in its directory, which has everything."""

    mlflow: bool = True
    """Record the run in MLflow: on the server at MLFLOW_TRACKING_URI, or in SQLite in `runs`."""
    experiment: str = "ctrdist"
    """MLflow experiment."""
    every_steps: int = 20
    """Steps between two points of the step metrics."""


@dataclass(frozen=True, kw_only=True)
class DiagnosticsConfig:
    """Measurements that explain a run. They do not change the weights."""

    enabled: bool = True
    """Off: no measurements."""
    every_steps: int = 20
    """Steps between two measurements of gradient norms, gates and the classes of training rows,
    which are also taken at an epoch's last step; 0: none of these."""
    abundance_rows: int = 20_000_000
    """Tables of at most so many rows are measured for information abundance after each epoch, in
    2 · rows · width² operations each; 0: none."""
    attention_rows: int = 16_384
    """First rows of valid over which the attention of the best checkpoint is averaged; 0: none."""

    def __post_init__(self) -> None:
        for name in ("every_steps", "abundance_rows", "attention_rows"):
            value = getattr(self, name)
            if value < 0:
                raise ConfigError(f"diagnostics.{name} {value}: a number from 1, or 0 for none.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    epochs: int = 10
    """Largest number of epochs."""
    max_steps: int = 0
    """Largest number of steps; 0: no bound."""
    seed: int = 2024
    """Seed of initialisation, row order and dropout."""
    monitor: Literal["auc", "logloss", "auc-logloss", "ne", "gauc", "auc+gauc"] = "auc"
    """Metric on the valid split that decides which epoch is best."""
    patience: int = 2
    """Successive epochs without improvement that end training; each reduces the learning rates."""
    lr_factor: float = 0.1
    """Factor for both learning rates after an epoch without improvement."""
    min_lr: float = 1e-6
    """Lower bound of the dense learning rate."""
    folds: int = 0
    """Cross-validation over the training rows, in so many parts, chooses the epoch and the tower's
    share in a model with a wide part; 0: valid does. For logs whose valid split tells too little.
    It trains that many models first. Not with max_steps."""
    min_delta: float = 1e-6
    """Smallest change of the monitor that counts as improvement."""
    negatives_kept: float = 1.0
    """Share of the log's rows with label 0 that is in the training rows. A data set that was made
    with `sample` sets it. Its logarithm is added to the log-odds of predictions, which so become
    those of the whole log."""
    eval_batch_size: int = 8192
    """Rows of an evaluation step on all workers together."""
    exact_rows: int = 20_000_000
    """Largest split whose predictions are gathered for an exact AUC.
    Above, AUC comes from a histogram of 2^20 bins, with auc_error as its bound."""
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    """bfloat16 and float16 run the tower under autocast; tables, logits and loss stay float32.
    float16 scales the loss, and needs a GPU. tf32 keeps float32 numbers and multiplies them with
    fewer digits on an NVIDIA GPU."""
    compile: bool = False
    """torch.compile of the tower: slow first steps, for a long run. Needs a C++ compiler."""
    kernels: Literal["pytorch", "triton"] = "pytorch"
    """Products of the many tiny matrices in DLF, DEA-R and the transformer. triton: kernels of our
    own, on an NVIDIA GPU. They have been checked in Triton's interpreter, and not yet on a GPU."""
    pipeline: Literal["auto", "none", "sparse_dist"] = "auto"
    """Work on the next batch during a step. sparse_dist copies it to the device and sends its ids
    to the workers that hold their rows. auto: sparse_dist on a GPU, none on CPUs."""
    deterministic: bool = False
    """Refuses or replaces GPU kernels whose results differ between two runs; slower there."""
    sync_batch_norm: bool = True
    """Batch normalisation over all workers' rows, so that results do not depend on their number;
    off: each its own."""
    embedding_init_std: float = 1e-4
    """Tables start as N(0, std²), row 0 as zero."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a training run depends on."""

    data: str = field(default="", metadata=IS_PATH)
    """Directory that jobs/preprocess.py wrote: local or s3://."""
    label: str = ""
    """Name of the label to predict, where the data set has several; empty: the first."""
    run_name: str = ""
    """Name of the run and of its directory; a run with the name of an earlier one resumes it.
    Empty: model, data and time."""
    runs: str = field(default_factory=runs_directory, metadata=IS_PATH)
    """Directory of all runs; the environment variable CTRDIST_RUNS replaces this default."""
    workers: int = 1
    """Worker processes, one per GPU or CPU share."""
    min_workers: int = 0
    """Least number of workers to run with if the cluster has too few; 0: `workers`."""
    model_name: str = ""
    """Name of the model in the registry; each job sets its own."""
    model: Any = None
    """Settings of the model."""
    auto: tuple[str, ...] = ()
    """Settings that follow from the data where neither a preset nor an option gives them; their
    defaults below do not apply then. The run shows and saves their values. '[]': none."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Reading of rows."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss that training minimises."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimisers."""
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    """Distribution of the tables over the workers."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Times of checkpoints."""
    faults: FaultConfig = field(default_factory=FaultConfig)
    """Reaction to failures."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Tracking of the run."""
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    """Measurements that explain a run."""


def experiment_of(model_name: str, model_config: type) -> type[Experiment]:
    """Returns the experiment dataclass of one model, with its settings and its name."""
    return make_dataclass(
        "Experiment",
        [
            ("model_name", Literal[model_name], model_name),  # type: ignore[valid-type]
            ("model", model_config, field(default_factory=model_config)),
            ("auto", tuple[str, ...], automatic(model_name)),
        ],
        bases=(Experiment,),
        namespace={"__doc__": "Settings of the run."},
        frozen=True,
        kw_only=True,
    )
