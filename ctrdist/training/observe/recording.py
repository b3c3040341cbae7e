"""The observers of every run: one records it in the tracker, one reports its progress."""

from __future__ import annotations

import math
import time
from typing import Any

from ctrdist.config.parse import to_dict, to_yaml
from ctrdist.data.report import REPORT_PAGE, read_report
from ctrdist.tracking import DatasetUse, RunTracker
from ctrdist.tracking.plots import calibration_figure, learning_curves_figure, roc_figure
from ctrdist.training.loop.evaluate import Evaluation
from ctrdist.training.loop.state import Progress
from ctrdist.training.observe import messages
from ctrdist.training.observe.observers import Observer, Started, Stepped, tolerated


class Tracking(Observer):
    """Records a run in its tracker."""

    def __init__(self, tracker: RunTracker, every_steps: int) -> None:
        """Records nothing before `on_start`.

        Args:
            tracker: where the run is recorded; closed when the run ends.
            every_steps: steps between two records of the training loss.
        """
        self._tracker = tracker
        self._every = max(1, every_steps)
        self._history: list[dict[str, float]] = []
        self._begin_interval()

    def on_start(self, event: Started) -> None:
        """Opens the tracked run with its settings, plan, schema and data set."""
        engine, experiment = event.engine, event.engine.experiment
        self._name = experiment.run_name
        self._tracker.start(
            params=to_dict(experiment),
            tags={
                "model": experiment.model_name,
                "dense_parameters": str(event.dense_parameters),
                "table_parameters": str(engine.layout.table_parameters),
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
        """Records means over the last steps, every few steps and at the end of an epoch."""
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
        """Records the split's metrics; its curves for test and for the best epoch so far."""
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
            with tolerated(f"figure roc_{split}"):
                curve = evaluation.histogram.roc_curve()
                figure = roc_figure(curve, evaluation.metrics["auc"], title)
                self._tracker.log_figure(f"roc_{split}", figure)
            with tolerated(f"figure calibration_{split}"):
                table = evaluation.histogram.calibration_table()
                self._tracker.log_figure(f"calibration_{split}", calibration_figure(table, title))

    def on_end(self, summary: dict[str, Any]) -> None:
        """Closes the tracked run, and adds its id and address to the summary."""
        if self._history:
            with tolerated("figure learning_curves"):
                figure = learning_curves_figure(self._history, self._name)
                self._tracker.log_figure("learning_curves", figure)
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


class Reporting(Observer):
    """Reports the progress of a run to whoever started it."""

    def __init__(self, emit: messages.Emit, interval: float = 0.5) -> None:
        """Reports nothing before `on_start`.

        Args:
            emit: receives the messages.
            interval: least seconds between two messages about steps.
        """
        self._emit, self._interval = emit, interval
        self._last = 0.0
        self._rows, self._seconds = 0, 0.0

    def on_start(self, event: Started) -> None:
        """Reports the model and the layout of its tables."""
        layout = event.engine.layout
        self._epochs = event.engine.experiment.train.epochs
        self._emit(
            messages.Start(
                run_name=event.engine.experiment.run_name,
                model=event.engine.experiment.model_name,
                resumed_step=event.resumed_step,
                steps_per_epoch=event.steps_per_epoch,
                dense_parameters=event.dense_parameters,
                table_parameters=layout.table_parameters,
                tables=len({shard.table for shard in layout.shards}),
                kinds=sorted({shard.kind for shard in layout.shards}),
                bytes_per_rank=layout.bytes_per_rank,
                device=event.engine.world.device.type,
                workers=event.engine.world.size,
            )
        )

    def on_step(self, event: Stepped) -> None:
        """Reports progress, loss and speed, if the interval has passed or the epoch is over."""
        self._rows += event.rows
        self._seconds += event.seconds
        now = time.monotonic()
        if now - self._last < self._interval and event.steps_left:
            return
        rate = self._rows / max(self._seconds, 1e-9)
        self._emit(
            messages.Step(
                epoch=event.epoch,
                epochs=self._epochs,
                steps_left=event.steps_left,
                epoch_rows=event.progress.epoch_rows,
                loss=event.progress.epoch_loss / max(event.progress.epoch_rows, 1),
                samples_per_s=rate,
            )
        )
        self._last, self._rows, self._seconds = now, 0, 0.0

    def on_evaluate(
        self, split: str, evaluation: Evaluation, progress: Progress, epoch: int, train_loss: float
    ) -> None:
        """Reports the split's metrics."""
        self._emit(
            messages.Evaluation(
                split=split,
                epoch=epoch,
                best=progress.best_step == progress.step,
                stale_epochs=progress.stale_epochs,
                train_loss=train_loss,
                metrics=evaluation.metrics,
            )
        )

    def on_checkpoint(self, progress: Progress) -> None:
        """Reports the checkpoint's step."""
        self._emit(messages.Checkpoint(step=progress.step))
