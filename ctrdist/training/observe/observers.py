"""The callbacks of every run: what is recorded, and what a person is shown."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from ctrdist.config.parse import to_dict, to_yaml
from ctrdist.data.report import REPORT_PAGE, read_report
from ctrdist.errors import UserError
from ctrdist.tracking import (
    DatasetUse,
    RunTracker,
    calibration_figure,
    learning_curves_figure,
    roc_figure,
)
from ctrdist.training.loop.evaluate import Evaluation
from ctrdist.training.loop.state import Progress
from ctrdist.training.observe.callbacks import Callback, Started, Stepped

Emit = Callable[[dict[str, Any]], None]
"""Takes a message for whoever started the run: JSON-ready, with a "kind"."""


class Tracking(Callback):
    """Hands a run to its tracker."""

    def __init__(self, tracker: RunTracker, every_steps: int) -> None:
        self._tracker = tracker
        self._every = max(1, every_steps)
        self._history: list[dict[str, float]] = []
        self._begin_interval()

    def on_start(self, event: Started) -> None:
        """Opens the tracked run: settings, plan, schema and data set."""
        engine, experiment = event.engine, event.engine.experiment
        self._name = experiment.run_name
        self._tracker.start(
            params=to_dict(experiment),
            tags={
                "model": experiment.model_name,
                "dense_parameters": str(event.dense_parameters),
                "table_parameters": str(event.table_parameters),
                "resumed_step": str(event.resumed_step),
            },
            artifacts={
                "config.yaml": to_yaml(experiment),
                "sharding_plan.json": engine.layout.to_json(),
                "schema.json": engine.dataset.schema.to_json(),
            },
        )
        report = read_report(engine.dataset.path)
        splits = engine.dataset.manifest.splits.items()
        self._tracker.log_dataset(
            DatasetUse(
                name=engine.dataset.schema.name,
                path=engine.dataset.path,
                fingerprint=engine.dataset.manifest.fingerprint,
                rows={name: split.rows for name, split in splits},
                profile=report.summary,
            )
        )
        if report.page:
            self._tracker.log_artifact_text(f"data/{REPORT_PAGE}", report.page)

    def on_step(self, event: Stepped) -> None:
        """Every few steps, and at the end of an epoch: means since the last time."""
        self._rows += event.rows
        self._seconds += event.seconds
        self._loss += event.loss * event.rows
        if event.progress.step % self._every and event.steps_left:
            return
        metrics = {
            "train/loss": self._loss / self._rows,
            "train/samples_per_s": self._rows / max(self._seconds, 1e-9),
            **{f"train/lr_{name}": rate for name, rate in event.learning_rates.items()},
        }
        if event.grad_norm >= 0:
            metrics["train/grad_norm"] = event.grad_norm
        self._tracker.log_metrics(metrics, event.progress.step)
        self._begin_interval()

    def on_evaluate(
        self, split: str, evaluation: Evaluation, progress: Progress, epoch: int, train_loss: float
    ) -> None:
        """The split's metrics; its curves where it is test, or the best epoch so far."""
        metrics = {f"{split}/{name}": value for name, value in evaluation.metrics.items()}
        if not math.isnan(train_loss):
            metrics["train/epoch_loss"] = train_loss
        if split == "valid":
            metrics["epoch"] = epoch
            curves = (
                ("train/loss", train_loss),
                *((f"valid/{m}", metrics[f"valid/{m}"]) for m in ("logloss", "auc")),
            )
            self._history.append(dict(curves))
        self._tracker.log_metrics(metrics, progress.step)
        best = progress.best_step == progress.step
        if evaluation.histogram is not None and (split == "test" or best):
            title = f"{self._name} · {split}"
            curve = evaluation.histogram.roc_curve()
            area = evaluation.metrics["auc"]
            self._tracker.log_figure(f"roc_{split}", roc_figure(curve, area, title))
            table = evaluation.histogram.calibration_table()
            self._tracker.log_figure(f"calibration_{split}", calibration_figure(table, title))

    def on_end(self, summary: dict[str, Any]) -> None:
        """Closes the tracked run and adds to the summary where it is found."""
        if self._history:
            self._tracker.log_figure(
                "learning_curves", learning_curves_figure(self._history, self._name)
            )
        if summary["throughput"]:
            self._tracker.log_metrics(
                {f"throughput/{name}": value for name, value in summary["throughput"].items()},
                summary["steps"],
            )
        self._tracker.finish("FINISHED", summary)
        summary["run_id"] = self._tracker.run_id
        summary["tracking_uri"] = self._tracker.tracking_uri

    def on_failure(self, error: BaseException) -> None:
        """Closes the tracked run as killed or failed."""
        killed = isinstance(error, (KeyboardInterrupt, SystemExit))
        self._tracker.finish(
            "KILLED" if killed else "FAILED", {"error": f"{type(error).__name__}: {error}"[:2000]}
        )

    def _begin_interval(self) -> None:
        self._rows, self._seconds, self._loss = 0, 0.0, 0.0


class Reporting(Callback):
    """Tells whoever started the run how far it is, at most every `interval` seconds."""

    def __init__(self, emit: Emit, interval: float = 0.5) -> None:
        self._emit, self._interval = emit, interval
        self._last = self._window_start = 0.0
        self._rows, self._seconds = 0, 0.0

    def on_start(self, event: Started) -> None:
        """What is trained, and how its tables are laid out."""
        layout = event.engine.layout
        self._epochs = event.engine.experiment.train.epochs
        self._emit(
            {
                "kind": "start",
                "run_name": event.engine.experiment.run_name,
                "model": event.engine.experiment.model_name,
                "resumed_step": event.resumed_step,
                "steps_per_epoch": event.steps_per_epoch,
                "dense_parameters": event.dense_parameters,
                "table_parameters": event.table_parameters,
                "tables": len({shard.table for shard in layout.shards}),
                "kinds": sorted({shard.kind for shard in layout.shards}),
                "bytes_per_rank": layout.bytes_per_rank,
                "imbalance": layout.imbalance,
                "device": event.engine.world.device.type,
                "workers": event.engine.world.size,
            }
        )

    def on_step(self, event: Stepped) -> None:
        """Progress, loss and speed, where the interval has passed or the epoch is over."""
        self._rows += event.rows
        self._seconds += event.seconds
        now = time.monotonic()
        if now - self._last < self._interval and event.steps_left:
            return
        rate = self._rows / max(self._seconds, 1e-9)
        self._emit(
            {
                "kind": "step",
                "epoch": event.epoch,
                "epochs": self._epochs,
                "step": event.progress.step,
                "steps_left": event.steps_left,
                "epoch_rows": event.progress.epoch_rows,
                "loss": event.progress.epoch_loss / max(event.progress.epoch_rows, 1),
                "samples_per_s": rate,
            }
        )
        self._last, self._rows, self._seconds = now, 0, 0.0

    def on_evaluate(
        self, split: str, evaluation: Evaluation, progress: Progress, epoch: int, train_loss: float
    ) -> None:
        """The split's metrics."""
        self._emit(
            {
                "kind": "evaluation",
                "split": split,
                "epoch": epoch,
                "step": progress.step,
                "best": progress.best_step == progress.step,
                "stale_epochs": progress.stale_epochs,
                "train_loss": train_loss,
                "metrics": evaluation.metrics,
            }
        )

    def on_checkpoint(self, path: str, progress: Progress, seconds: float) -> None:
        """Where the checkpoint is and how long it took."""
        self._emit({"kind": "checkpoint", "path": path, "step": progress.step, "seconds": seconds})

    def on_failure(self, error: BaseException) -> None:
        """A user error's text; any other error reaches the starter as it is."""
        if isinstance(error, UserError):
            self._emit({"kind": "user_error", "type": type(error).__name__, "text": str(error)})
