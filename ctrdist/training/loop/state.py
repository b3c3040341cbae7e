"""How far a run is: JSON-ready, the same on all ranks, saved with each checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ctrdist.config.experiment import TrainConfig

STATE_VERSION = 1


@dataclass
class Progress:
    """Counts, best epoch and schedule."""

    step: int = 0
    """Steps taken."""
    rows_seen: int = 0
    """Rows trained on, on all workers."""
    train_seconds: float = 0.0
    """Time in training steps, over all starts of the run; evaluation and checkpoints left out."""
    epoch_loss: float = 0.0
    """Σ of the losses of this epoch's rows."""
    epoch_rows: int = 0
    """Rows of this epoch so far."""
    epoch_digest: int = 0
    """Order-independent digest of this epoch's rows so far, modulo 2⁶⁴."""
    best_value: float | None = None
    """Best value of the monitor so far."""
    best_step: int | None = None
    """Step of the best checkpoint."""
    best_metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the valid split at that step."""
    stale_epochs: int = 0
    """Epochs in a row without improvement."""
    lr_factor: float = 1.0
    """What the plateau schedule multiplies the learning rates by."""
    stopped: str = ""
    """Why training is over; empty while it is not."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"version": STATE_VERSION, **asdict(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from saved values."""
        for known in fields(self):
            setattr(self, known.name, state[known.name])

    def add_rows(self, rows: int, digest: int, loss_sum: float) -> None:
        """Counts a step."""
        self.step += 1
        self.rows_seen += rows
        self.epoch_rows += rows
        self.epoch_digest = (self.epoch_digest + digest) % 2**64
        self.epoch_loss += loss_sum

    def begin_epoch(self) -> None:
        """Forgets what counts within an epoch."""
        self.epoch_loss, self.epoch_rows, self.epoch_digest = 0.0, 0, 0

    def judge(self, metrics: dict[str, float], config: TrainConfig) -> None:
        """Compares an epoch with the best one; cuts the rates, or stops, where it is not better."""
        value = monitored(metrics, config.monitor)
        best = self.best_value
        # a value that is not a number is never better
        better = not math.isnan(value) and (
            best is None or math.isnan(best) or value > best + config.min_delta
        )
        if better or best is None:
            self.best_value, self.best_step, self.best_metrics = value, self.step, dict(metrics)
        if better:
            self.stale_epochs = 0
            return
        self.stale_epochs += 1
        self.lr_factor *= config.lr_factor
        if self.stale_epochs >= config.patience:
            self.stopped = (
                f"{config.monitor} on valid has not improved for {self.stale_epochs} epochs"
            )

    def go_on(self, config: TrainConfig, epoch: int) -> None:
        """Forgets why the run ended, where that was a bound which has been raised since.

        Args:
            config: of now.
            epoch: the next one.
        """
        reason = self.stopped
        more_epochs = epoch < config.epochs
        more_steps = not 0 < config.max_steps <= self.step
        if (reason.startswith("train.epochs") and more_epochs) or (
            reason.startswith("train.max_steps") and more_epochs and more_steps
        ):
            self.stopped = ""


def monitored(metrics: dict[str, float], monitor: str) -> float:
    """Value of the monitor, larger being better."""
    if monitor in ("logloss", "ne"):
        return -metrics[monitor]
    if monitor == "auc-logloss":
        return metrics["auc"] - metrics["logloss"]
    if monitor == "auc+gauc":
        return metrics["auc"] + metrics["gauc"]
    return metrics[monitor]


def mix(*parts: int) -> int:
    """A seed from several numbers."""
    mixed = 0
    for part in parts:
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % 2**63
    return mixed
