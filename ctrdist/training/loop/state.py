"""The progress of a run: JSON-ready, the same on all ranks, saved with each checkpoint."""

import math
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from ctrdist.config.experiment import TrainConfig

STATE_VERSION = 2


class StopReason(StrEnum):
    """The setting that has ended training."""

    EPOCHS = "train.epochs"
    MAX_STEPS = "train.max_steps"
    PATIENCE = "train.patience"
    FOLDS = "train.folds"


@dataclass
class Progress:
    """Counts, best epoch and plateau schedule."""

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
    """Best value of the monitor so far; None before the first finite evaluation."""
    best_step: int | None = None
    """Step of the best checkpoint."""
    best_metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the valid split at that step."""
    best_tower: float | None = None
    """Least log loss of the tower alone on valid; None without a wide part."""
    chosen_epochs: int | None = None
    """Epochs of the best model, if cross-validation has chosen them."""
    chosen_share: float | None = None
    """The tower's share in that model."""
    stale_epochs: int = 0
    """Epochs in a row without improvement."""
    lr_factor: float = 1.0
    """Factor of the plateau schedule on the learning rates."""
    stopped: StopReason | None = None
    """Why training is over; None while it is not."""
    stop_text: str = ""
    """The same for a person."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"version": STATE_VERSION, **asdict(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from saved values, of this version or of version 1."""
        values = dict(state) if state["version"] == STATE_VERSION else _from_version_1(state)
        for known in fields(self):
            setattr(self, known.name, values.get(known.name, getattr(self, known.name)))
        # JSON has null for a metric that is not defined
        self.best_metrics = {k: math.nan if v is None else v for k, v in self.best_metrics.items()}
        self.stopped = StopReason(values["stopped"]) if values["stopped"] else None

    def add_rows(self, rows: int, digest: int, loss_sum: float) -> None:
        """Counts a step."""
        self.step += 1
        self.rows_seen += rows
        self.epoch_rows += rows
        self.epoch_digest = (self.epoch_digest + digest) % 2**64
        self.epoch_loss += loss_sum

    def begin_epoch(self) -> None:
        """Resets what counts within an epoch."""
        self.epoch_loss, self.epoch_rows, self.epoch_digest = 0.0, 0, 0

    def stop(self, reason: StopReason, text: str) -> None:
        """Ends training; the first reason counts."""
        if self.stopped is None:
            self.stopped, self.stop_text = reason, text

    def judge(
        self, metrics: dict[str, float], config: TrainConfig, *, at_chosen: bool = False
    ) -> None:
        """Compares an evaluation with the best one; cuts the rates, or stops, if not better.

        An evaluation that is not finite is never the best. With a wide part an epoch is not stale
        either if the tower alone was better than before: it may take epochs until it can gain.
        If cross-validation has chosen an epoch, this one ends training. It is the best if valid
        does not speak against it, else the wide part. `at_chosen` tells that it is this one.
        """
        tower = metrics.get("tower_logloss", math.nan)
        tower_gains = self.best_tower is None or tower < self.best_tower - config.min_delta
        if math.isfinite(tower) and tower_gains:
            self.best_tower = tower
            self.stale_epochs = 0
        if self.chosen_epochs is not None and "gain" in metrics:
            text, gains = f"cross-validation chose epoch {self.chosen_epochs}", metrics["gain"] > 0
            first = self.best_step is None  # the wide part alone, epoch 0
            if first or (at_chosen and gains):
                self._mark_best(metrics, config.monitor)
            if at_chosen:
                against = self.chosen_epochs and not gains
                self.stop(StopReason.FOLDS, text + ", but valid shows no gain" * bool(against))
            if first or at_chosen:
                return
        if self.chosen_epochs is None and is_finite(metrics, config.monitor):
            value = monitored(metrics, config.monitor)
            if self.best_value is None or value > self.best_value + config.min_delta:
                self._mark_best(metrics, config.monitor)
                self.stale_epochs = 0
                return
        if math.isfinite(tower) and tower_gains:
            return
        self.stale_epochs += 1
        self.lr_factor *= config.lr_factor
        if self.stale_epochs >= config.patience and not self.chosen_epochs:
            self.stop(
                StopReason.PATIENCE,
                f"{config.monitor} on valid has not improved for {self.stale_epochs} epochs",
            )

    def _mark_best(self, metrics: dict[str, float], monitor: str) -> None:
        self.best_value = monitored(metrics, monitor)
        self.best_step, self.best_metrics = self.step, dict(metrics)

    def resume(self, config: TrainConfig, epoch: int) -> None:
        """Lets training continue if it was ended by a bound that has been raised since.

        The epoch is the number of the next one, from 0.
        """
        more_steps = not 0 < config.max_steps <= self.step
        raised = {StopReason.EPOCHS: True, StopReason.MAX_STEPS: more_steps}
        if epoch < config.epochs and self.stopped and raised.get(self.stopped):
            self.stopped, self.stop_text = None, ""


def monitored(metrics: dict[str, float], monitor: str) -> float:
    """Value of the monitor, larger being better.

    With a wide part, that of logloss is the mean gain over it less its margin: the log loss itself
    would choose by chance where valid is small.
    """
    if monitor == "auc-logloss":
        return metrics["auc"] - metrics["logloss"]
    if monitor == "logloss" and "gain_bound" in metrics:
        return metrics["gain_bound"]
    if monitor == "auc+gauc":
        return metrics["auc"] + metrics["gauc"]
    return -metrics[monitor] if monitor in ("logloss", "ne") else metrics[monitor]


def is_finite(metrics: dict[str, float], monitor: str) -> bool:
    """Tells if an evaluation can be the best: its log loss and its monitor are finite.

    The log loss is finite on any rows if all predictions are numbers.
    """
    return math.isfinite(metrics["logloss"]) and math.isfinite(monitored(metrics, monitor))


def _from_version_1(state: dict[str, Any]) -> dict[str, Any]:
    """Version 1 said in prose why a run ended, and let an evaluation that gave nan be the best."""
    text = state["stopped"]
    reason = next((r for r in StopReason if text.startswith(r)), StopReason.PATIENCE)
    values = {**state, "stopped": reason if text else None, "stop_text": text}
    if state["best_value"] is not None and not math.isfinite(state["best_value"]):
        values |= {"best_value": None, "best_step": None, "best_metrics": {}}
    return values
