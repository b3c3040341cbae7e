"""Messages from the workers of a run, and from its driver, to whoever shows the run.

They are plain dataclasses of numbers and texts, so Ray can carry them from one process to another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Message:
    """Base of all messages."""


@dataclass(frozen=True, kw_only=True)
class Worker(Message):
    """A worker process is there."""

    rank: int
    node: str
    """Ray's id of the node that it runs on."""


@dataclass(frozen=True, kw_only=True)
class Start(Message):
    """Training is about to begin, or to resume."""

    run_name: str
    model: str
    resumed_step: int
    """Step at which an earlier start of the run is resumed; 0 for a new run."""
    steps_per_epoch: int
    dense_parameters: int
    table_parameters: int
    tables: int
    """Number of tables."""
    kinds: list[str]
    """Sharding kinds in use."""
    bytes_per_rank: list[int]
    """Bytes of table weights on each worker."""
    device: str
    workers: int


@dataclass(frozen=True, kw_only=True)
class Fold(Message):
    """Cross-validation trains on the rows outside a fold."""

    fold: int
    """Its index, from 0."""
    folds: int


@dataclass(frozen=True, kw_only=True)
class Chosen(Message):
    """Cross-validation has chosen the epoch and the share of the tower."""

    epochs: int
    """0: the model is its wide part."""
    share: float
    gain: float
    """Mean log loss of the wide part less that of the blend."""
    bound: float
    """The gain less its margin."""
    rows: int


@dataclass(frozen=True, kw_only=True)
class Step(Message):
    """Training has taken some more steps."""

    epoch: int
    epochs: int
    steps_left: int
    """Steps left in this epoch."""
    epoch_rows: int
    """Rows of this epoch so far."""
    loss: float
    """Mean over the rows of this epoch so far."""
    samples_per_s: float


@dataclass(frozen=True, kw_only=True)
class Evaluation(Message):
    """A split was evaluated."""

    split: str
    epoch: int
    best: bool
    """True if this is the best evaluation so far."""
    stale_epochs: int
    """Epochs in a row without improvement."""
    train_loss: float
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Message):
    """A checkpoint is complete."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Done(Message):
    """The task has ended well."""

    summary: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class UserFault(Message):
    """A worker has raised a UserError."""

    type: str
    """Name of the class in ctrdist.errors."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Crash(Message):
    """A worker has raised any other error."""

    rank: int
    traceback: str


@dataclass(frozen=True, kw_only=True)
class Logged(Message):
    """A worker has logged a line, such as a warning."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Hang(Message):
    """The watchdog of a worker is about to end it."""

    rank: int
    seconds: float
    stacks: str
    """Directory with the Python stacks of all workers."""


@dataclass(frozen=True, kw_only=True)
class Stopped(Message):
    """The workers have written a checkpoint and ended, as they were asked to."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Failure(Message):
    """A worker has failed, or was told to stop so that the workers start again."""

    rank: int
    reason: str
    out_of_memory: bool
    told_to_stop: bool
    final: bool
    """True if the workers are not started again."""
    restarts: int
    max_restarts: int
    """−1 for any number."""


@dataclass(frozen=True, kw_only=True)
class Restart(Message):
    """The workers start again after a failure."""

    failure: Failure
    step: int
    """Step of the checkpoint that they resume from; 0: the beginning."""


@dataclass(frozen=True, kw_only=True)
class Waiting(Message):
    """The run waits for nodes of the cluster."""

    wanted: int
    there: int
    unit: str
    """CPU or GPU."""


@dataclass(frozen=True, kw_only=True)
class Stopping(Message):
    """The run was asked to end and is about to write a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Interrupted(Message):
    """The run has ended early, with a checkpoint."""

    step: int


@dataclass(frozen=True, kw_only=True)
class OfRun(Message):
    """A message of one of several runs that train side by side."""

    run: str
    message: Message


@dataclass(frozen=True, kw_only=True)
class RunFailed(Message):
    """One of several runs has failed; the others continue."""

    text: str


Emit = Callable[[Message], None]
"""Takes a message."""
