"""The observers of every run: one records it in the tracker, one reports its progress."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ctrdist.config.experiment import Experiment
from ctrdist.config.parse import to_dict, to_yaml
from ctrdist.data.report import REPORT_PAGE, read_report
from ctrdist.metrics.histogram import ScoreHistogram
from ctrdist.tracking import DatasetUse, RunTracker
from ctrdist.tracking.plots import calibration_figure, learning_curves_figure, roc_figure
from ctrdist.training.build import Engine
from ctrdist.training.loop.state import Progress
from ctrdist.training.observe import messages
from ctrdist.training.observe.description import DESCRIPTION, describe, result_table
from ctrdist.training.observe.messages import Evaluation, Start
from ctrdist.training.observe.observers import Observer, Stepped, draw

_MAIN = ("auc", "logloss", "ne", "calibration", "gauc", "nan_predictions")
"""Metrics of an evaluation that are recorded. The others belong to the data."""
_WIDE = ("tower_share", "tower_logloss", "gain", "gain_bound", "wide_auc", "wide_logloss")
"""Metrics of the blend with a wide part, in a group of their own."""
_OF_THE_JOB = ("data", "run_name", "runs", "model_name", "auto")
"""Settings that the run's tags have."""


class Tracking(Observer):
    """Records a run in its tracker."""

    def __init__(self, tracker: RunTracker, every_steps: int) -> None:
        """Records the training loss every so many steps; closes the tracker when the run ends."""
        self._tracker = tracker
        self._every = max(1, every_steps)
        self._since: list[Stepped] = []
        self._describe: Callable[[str], str] | None = None
        """Makes the run's description of a text on its result; None before the start."""

    def on_start(self, engine: Engine, event: Start) -> None:
        """Opens the tracked run with its settings, plan, schema and data set."""
        experiment, dataset = engine.experiment, engine.dataset
        self._name = experiment.run_name
        self._describe = partial(describe, engine, event, self._tracker.command)
        self._tracker.start(
            params=_settings(experiment),
            defaults=_settings(replace(type(experiment)(), model=type(experiment.model)())),
            tags={
                "model": experiment.model_name,
                "label": dataset.schema.label,
                "resumed_step": str(event.resumed_step),
                DESCRIPTION: self._describe("The run has not ended."),
            },
            artifacts={
                "config.yaml": to_yaml(experiment),
                "sharding_plan.json": engine.layout.to_json(),
                "schema.json": engine.dataset.schema.to_json(),
            },
        )
        summary, page = read_report(dataset.path)
        self._tracker.log_dataset(
            DatasetUse(
                name=dataset.schema.name,
                path=dataset.path,
                fingerprint=dataset.manifest.fingerprint,
                rows={name: split.rows for name, split in dataset.manifest.splits.items()},
                profile=summary,
            )
        )
        if page:
            self._tracker.log_artifact_text(f"data/{REPORT_PAGE}", page)

    def on_step(self, event: Stepped) -> None:
        """Records means over the last steps, every few steps and at the end of an epoch."""
        steps = self._since
        steps.append(event)
        if event.progress.step % self._every and event.steps_left:
            return
        self._since = []
        rows, seconds = sum(e.rows for e in steps), sum(e.seconds for e in steps)
        metrics = {
            "training/loss": sum(e.loss * e.rows for e in steps) / rows,
            "training/samples_per_s": rows / max(seconds, 1e-9),
            **{f"training/lr_{name}": rate for name, rate in event.learning_rates.items()},
        }
        if event.grad_norm >= 0:
            metrics["training/grad_norm"] = event.grad_norm
        self._tracker.log_metrics(metrics, event.progress.step)

    def on_evaluate(self, event: Evaluation, step: int, histogram: ScoreHistogram | None) -> None:
        """Records the split's metrics; its curves for test and for the best epoch so far.

        Metrics of valid are recorded by epoch, from 1 on, and those of another split once, at 0.
        """
        split, epoch = event.split, event.epoch + 1
        metrics = {name: event.metrics[name] for name in _MAIN if name in event.metrics}
        prefix = "wide/" if split == "valid" else f"wide/{split}_"
        wide = {n.removeprefix("wide_"): event.metrics[n] for n in _WIDE if n in event.metrics}
        self._tracker.log_metrics(
            {f"{prefix}{n}": v for n, v in wide.items()}, epoch if split == "valid" else 0
        )
        if split != "valid":
            self._tracker.log_metrics({f"{split}_{k}": v for k, v in metrics.items()}, 0)
        else:
            self._tracker.log_metrics({**metrics, "training/epoch_loss": event.train_loss}, epoch)
        if split == "valid" and event.best:
            best = {f"best/{name}": value for name, value in metrics.items()}
            self._tracker.log_metrics({**best, "best/epoch": epoch}, epoch)
        if histogram is not None and (split == "test" or event.best):
            title, curve = f"{self._name} · {split}", histogram.roc_curve()
            draw(self._tracker, f"roc_{split}", roc_figure, curve, event.metrics["auc"], title)
            table = histogram.calibration_table()
            draw(self._tracker, f"calibration_{split}", calibration_figure, table, title)

    def on_end(self, summary: dict[str, Any]) -> None:
        """Closes the tracked run, and adds its id and address to the summary."""
        history = self._tracker.metric_history("training/epoch_loss", "logloss", "auc")
        if "auc" in history:
            draw(self._tracker, "learning_curves", learning_curves_figure, history, self._name)
        measured = {"train_seconds": summary["train_seconds"], **summary["throughput"]}
        self._tracker.log_metrics({f"throughput/{k}": v for k, v in measured.items()}, 0)
        self._describe_result(result_table(summary))
        self._tracker.finish("FINISHED", summary)
        summary["run_id"] = self._tracker.run_id
        summary["mlflow_page"] = self._tracker.page
        summary["tracking_uri"] = self._tracker.tracking_uri
        summary["undelivered"] = self._tracker.undelivered

    def on_failure(self, error: BaseException) -> None:
        """Closes the tracked run as killed or failed."""
        killed = isinstance(error, (KeyboardInterrupt, SystemExit))
        text = f"{type(error).__name__}: {error}"[:2000]
        self._describe_result(f"**Ended early**: {text}")
        self._tracker.finish("KILLED" if killed else "FAILED", {"error": text})

    def _describe_result(self, text: str) -> None:
        if self._describe is not None:
            self._tracker.log_tags({DESCRIPTION: self._describe(text)})


def _settings(experiment: Experiment) -> dict[str, Any]:
    values = to_dict(experiment)
    return {name: value for name, value in values.items() if name not in _OF_THE_JOB}


class Reporting(Observer):
    """Reports the progress of a run to whoever started it."""

    def __init__(self, emit: messages.Emit, interval: float = 0.5) -> None:
        """Leaves at least so many seconds between two messages about steps."""
        self._emit, self._interval = emit, interval
        self._last = 0.0
        self._rows, self._seconds = 0, 0.0

    def on_start(self, engine: Engine, event: Start) -> None:
        """Reports the model and the layout of its tables."""
        self._epochs = engine.experiment.train.epochs
        self._emit(event)

    def on_step(self, event: Stepped) -> None:
        """Reports progress, loss and speed, if the interval has passed or the epoch is over."""
        self._rows += event.rows
        self._seconds += event.seconds
        now = time.monotonic()
        if now - self._last < self._interval and event.steps_left:
            return
        self._emit(
            messages.Step(
                epoch=event.epoch,
                epochs=self._epochs,
                steps_left=event.steps_left,
                epoch_rows=event.progress.epoch_rows,
                loss=event.progress.epoch_loss / max(event.progress.epoch_rows, 1),
                samples_per_s=self._rows / max(self._seconds, 1e-9),
            )
        )
        self._last, self._rows, self._seconds = now, 0, 0.0

    def on_evaluate(self, event: Evaluation, step: int, histogram: ScoreHistogram | None) -> None:
        """Reports the split's metrics."""
        self._emit(event)

    def on_checkpoint(self, progress: Progress) -> None:
        """Reports the checkpoint's step."""
        self._emit(messages.Checkpoint(step=progress.step))
