"""Settings of a training run: one dataclass per component, assembled into :class:`Experiment`."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Any, Literal

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
    """How rows reach the model."""

    batch_size: int = 4096
    """Rows of a step on all workers together.
    The last two steps of an epoch share what is left evenly."""
    shuffle_rows: int = 524288
    """Rows that are mixed at a time, on all workers together; 0: as stored.
    Row groups are drawn in random order, and rows permuted within windows of them."""
    lanes: int = 16
    """Parts of an epoch that are read side by side, so that a worker reads only its own.
    Part of the order; at least the number of workers, or some read the same rows."""
    threads: int = 2
    """Threads of a worker that read and decode."""
    prefetch: int = 4
    """Batches that are made ready ahead of the step."""
    accumulate: int = 1
    """Slices of a step through which the tower goes one after another, to save memory.
    Tables are looked up and updated once, so the step stays the same, but for batch statistics."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What training minimises. Evaluation reports the log loss in any case."""

    name: Literal["log", "focal", "r_ce", "twin_focus"] = "log"
    """With p the probability given to a row's label: −ln p (log), −(1−p)^γ ln p (focal) or
    −p^γ ln p with p^γ held constant (r_ce). twin_focus adds to log, where a model has two encoders,
    −α(c+p)^γ ln p of the simple one and −(1−α)(2−c−p)^γ ln p of the complex one."""
    gamma: float = 1.0
    """γ; 0 leaves plain cross entropies. No effect on log."""
    alpha: float = 0.25
    """α of twin_focus, from 0 to 1."""
    c: float = 0.7
    """c of twin_focus, from 0 to 1; from γ·exp(−1−1/γ) on no row is pushed away from its label."""

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < float("inf"):
            raise ConfigError(f"loss.gamma is {self.gamma}; give a number of at least 0.")
        for name in ("alpha", "c"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"loss.{name} is {getattr(self, name)}; give one from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class TableOptimConfig:
    """Optimiser of the embedding tables."""

    name: Literal[
        "rowwise_adagrad", "adagrad", "sgd", "adam", "fused_adam", "fused_rowwise_adam", "lamb"
    ] = "rowwise_adagrad"
    """All but adam are fused into the backward pass and move looked-up rows only; the last three
    need a GPU. adam is dense: for tables that fit, with whole-table L2."""
    lr: float = 0.01
    """Learning rate."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    l2: float = 0.0
    """λ: adds (λ/2)·Σ‖table‖² over all rows of all tables to each step's loss. Only with adam."""
    weight_decay: float = 0.0
    """Decoupled: looked-up rows lose lr·weight_decay of themselves in each step.
    Not with adagrad, sgd and adam, and only on a GPU: FBGEMM's CPU kernels ignore it."""


@dataclass(frozen=True, kw_only=True)
class DenseOptimConfig:
    """Adam for everything but the tables."""

    lr: float = 0.001
    """Learning rate."""
    beta1: float = 0.9
    """Decay of the first moment; also for tables under the Adams and LAMB."""
    beta2: float = 0.999
    """Decay of the second moment; also for tables under the Adams and LAMB."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    l2: float = 0.0
    """Adds (l2/2)·Σ‖w‖² of the dense weights to the loss."""
    weight_decay: float = 0.0
    """Decoupled, as in AdamW: weights lose lr·weight_decay of themselves in each step."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rates as a function of the step; cuts after stale epochs come on top."""

    warmup_steps: int = 0
    """Steps over which the rates rise linearly to their configured values."""
    decay: Literal["constant", "linear", "cosine", "inverse_sqrt", "step"] = "constant"
    """What follows the warm-up.
    With t steps since then and n = decay_steps: linear and cosine fall to the floor at t = n;
    inverse_sqrt is √(n/(n+t)); step multiplies by step_factor every n steps."""
    decay_steps: int = 0
    """n; all but constant need it."""
    step_factor: float = 0.1
    """Factor of the decay named step."""
    floor: float = 0.0
    """Least rate after the warm-up, as a share of the configured one."""
    applies_to: Literal["both", "tables", "dense"] = "both"
    """Whose rates follow it; the others stay constant."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimisers."""

    tables: TableOptimConfig = field(default_factory=TableOptimConfig)
    """Of the embedding tables."""
    codebooks: TableOptimConfig | None = None
    """Of tables that are looked up at hashed pairs of ids, with the same keys as tables; null: they
    have the tables' optimiser."""
    dense: DenseOptimConfig = field(default_factory=DenseOptimConfig)
    """Of everything else."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Warm-up and decay of the learning rates."""
    max_grad_norm: float = 10.0
    """Bound of the gradient norm of dense weights, and of tables under adam; 0 switches it off."""
    ema_decay: float = 0.0
    """Decay per step of an exponential moving average of the weights, below 1; 0: none. The average
    is what is evaluated and saved as the model. It is of dense weights and of tables under adam,
    which take that much more memory; fused tables stay as they are."""


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
    cpu_kernel: bool = True
    """On CPU workers, whether fused tables use our kernel on all threads of a worker.
    false: FBGEMM's, which updates on one."""
    shared_memory: bool = True
    """CPU workers of one machine exchange ids and vectors through shared memory, where every field
    has one id per row and all tables use our kernel. false: by TorchRec's collectives."""
    reserved: float = 0.15
    """Share of that memory that is kept for the tower, activations and batches."""
    intra_host_gbps: float = 0.0
    """Bandwidth between workers of one machine, GB/s, for the planner; 0: TorchRec's assumption."""
    inter_host_gbps: float = 0.0
    """Bandwidth between machines, GB/s, for the planner; 0: TorchRec's assumption."""
    min_columns: int = 4
    """Narrowest part that a column-wise kind may cut; a multiple of 4. Bounds the number of parts:
    a table of 16 columns has at most 16 / min_columns."""
    plan_file: str = ""
    """plan.json of an earlier run (in its checkpoints): its placement again, without planning."""
    tables_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """What tables are stored in; looked-up rows and the optimiser's state stay float32."""
    forward_comm: CommType = "float32"
    """What looked-up rows are sent between workers in. int8 and fp8 need GPUs."""
    backward_comm: CommType = "float32"
    """The same for their gradients."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written. One is written at the end of every epoch in any case."""

    every_steps: int = 1000
    """Also after so many steps; 0 switches it off."""
    every_seconds: float = 300.0
    """Also after so many seconds, which is what a kill may cost at most; 0 switches it off."""
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
class FaultConfig:
    """What happens when something breaks."""

    max_restarts: int = 3
    """How often workers are started again, from the newest checkpoint, after one has failed;
    −1: without bound. Wrong settings, bad data or a loss that is not finite end the run at once."""
    step_timeout_s: float = 1800.0
    """Seconds after which a step, a batch of an evaluation or a checkpoint counts as hung: each
    worker writes its Python stacks to the run's stacks/ and ends with an error; 0: never."""


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
class DiagnosticsConfig:
    """What is measured of a run to understand it. Training gives the same weights without."""

    enabled: bool = True
    """Off: nothing of it."""
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
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"diagnostics.{name} {getattr(self, name)}: a number from 1, or 0 for none."
                )


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
    exact_rows: int = 20_000_000
    """Largest split whose predictions are gathered for an exact AUC.
    Above, AUC comes from a histogram of 2^20 bins, with auc_error as its bound."""
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    """bfloat16 and float16 run the tower under autocast; tables, logits and loss stay float32.
    float16 scales the loss, and needs a GPU. tf32 keeps float32 numbers and multiplies them with
    fewer digits on an NVIDIA GPU."""
    compile: bool = False
    """torch.compile of the tower: slow first steps, for a long run. Needs a C++ compiler."""
    pipeline: Literal["auto", "none", "sparse_dist"] = "auto"
    """What is done for the next batch during a step. sparse_dist copies it to the device and sends
    its ids to the workers that hold their rows. auto: sparse_dist on a GPU, none on CPUs."""
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

    data: str = ""
    """Directory that jobs/preprocess.py wrote: local or s3://."""
    run_name: str = ""
    """Name of the run and of its directory; started again under the same name it goes on.
    Empty: model, data, time."""
    runs: str = "runs"
    """Directory of all runs; CTRDIST_RUNS replaces this default."""
    workers: int = 1
    """Worker processes, one per GPU or CPU share."""
    min_workers: int = 0
    """Fewest workers to go on with where the cluster has not enough for `workers`; 0: `workers`."""
    model_name: str = ""
    """Name in the registry of models; each job sets its own."""
    model: Any = None
    """Settings of the model."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """How rows reach the model."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What training minimises."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimisers."""
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    """How tables are laid over the workers."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The loop."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written."""
    faults: FaultConfig = field(default_factory=FaultConfig)
    """What happens when something breaks."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """What is recorded where."""
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    """What is measured to understand a run."""


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
