"""Progress and tables of studies and searches."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ctrdist.studies.comparison import METRICS, comparison_cells, markdown_page
from ctrdist.studies.study import StudyRun
from ctrdist.training.observe import messages
from jobs.console.run import clock, plural, say

if TYPE_CHECKING:  # it imports Ray
    from cluster.tuning import Trial

_SHOWN_TRIALS = 12


class _RunsConsole:
    """Shows a line for each run that has ended, with an estimate of the time that is left."""

    def __init__(self, runs: int, finished: int = 0) -> None:
        self._console = Console(stderr=True)
        self._runs, self._finished, self._before = runs, finished, finished
        self._begun = time.monotonic()

    def _ended(self, text: str) -> None:
        self._finished += 1
        done, left = self._finished - self._before, self._runs - self._finished
        remaining = clock((time.monotonic() - self._begun) / done * left)
        say(self._console, f"{self._finished}/{self._runs} {text}; about {remaining} left")


class StudyConsole(_RunsConsole):
    """Shows a bar over the runs on a terminal, and a line per run. Use as a context."""

    def __init__(self, runs: int, finished: int) -> None:
        super().__init__(runs, finished)
        self._state: dict[str, str] = {}
        self._bar = Progress(
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=runs, completed=finished, text="starting")

    def __enter__(self) -> StudyConsole:
        if self._finished:
            say(self._console, f"{self._finished} of {plural(self._runs, 'run')} are already done")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def list_runs(self, runs: Sequence[StudyRun], missing: Sequence[StudyRun]) -> None:
        """Prints the runs of a dry run."""
        table = Table("run", "variant", "seed", "")
        for run in runs:
            state = "to train" if run in missing else "done"
            table.add_row(run.experiment.run_name, run.variant, str(run.seed), state)
        Console().print(table)

    def show(self, message: messages.Message) -> None:
        """Shows a message of one of the runs."""
        match message:
            case messages.OfRun(run=name, message=messages.Step(epoch=epoch, epochs=epochs)):
                self._state[name] = f"{name} epoch {epoch + 1}/{epochs}"
            case messages.OfRun(run=name, message=messages.Logged(text=text)):
                say(self._console, f"{name}: {text}")
            case messages.OfRun(run=name, message=messages.RunFailed(text=text)):
                self._state.pop(name, None)
                say(self._console, f"{name} failed: {text}")
        self._update()

    def done(self, name: str, summary: dict[str, Any]) -> None:
        """Shows the results of a run that has ended."""
        self._state.pop(name, None)
        metrics = ", ".join(
            f"{title} {summary['test'][metric]:.5f}"
            for metric, title in METRICS.items()
            if metric in summary["test"]
        )
        epochs = plural(summary["epochs"], "epoch")
        self._ended(f"{name}: test {metrics} ({epochs}, {clock(summary['train_seconds'])})")
        self._update()

    def _update(self) -> None:
        text = " · ".join(list(self._state.values())[:4])
        self._bar.update(self._task, completed=self._finished, text=text)


class SearchConsole(_RunsConsole):
    """Shows a line for each trial that has ended."""

    _best = -math.inf

    def show(self, trial: Trial) -> None:
        """Shows a trial of :func:`cluster.tuning.search`."""
        value = trial.result.get("objective", -math.inf)
        text = trial.error or f"valid objective {value:.5f}, epoch {trial.result.get('epoch')}"
        if value > self._best and trial.status == "trained":
            self._best = value
            text += " (best so far)"
        self._ended(f"{trial.run} {trial.status}: {text}")


def show_search(name: str, trials: Sequence[Trial], monitor: str) -> str:
    """Prints the best trials, and returns the table of all of them as Markdown.

    The trials are ordered by the metric `monitor` of the valid split.
    """
    keys = list(trials[0].settings)
    metrics = ("valid_auc", "test_auc", "test_logloss")
    headings = ["trial", *(key.split(".", 1)[-1] for key in keys), f"valid {monitor}", *metrics]
    headings.append("epochs")
    rows = []
    for trial in trials:
        result, settings = trial.result, [trial.settings[key] for key in keys]
        numbers = [result.get("objective"), *(result.get(metric) for metric in metrics)]
        rows.append(
            [
                trial.run.rsplit(".", 1)[-1],
                *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in settings),
                *("–" if number is None else f"{number:.5f}" for number in numbers),
                f"{result.get('epoch', '–')}" + ("" if trial.status == "trained" else " (cut)"),
            ]
        )
    best = min(_SHOWN_TRIALS, len(rows))
    table = Table(*headings, title=f"{name}: the best {best} of {len(rows)} trials")
    for row in rows[:best]:
        table.add_row(*row)
    _wide_console().print(table)
    note = "Ordered by the valid split; test is shown and was not used."
    return markdown_page(name, note, headings, rows)


def show_comparison(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the table of a study; the best test AUC is bold."""
    headings, lines = comparison_cells(rows)
    table = Table(*headings, title=name)
    best = max(row["auc"]["mean"] for row in rows)
    for row, cells in zip(rows, lines, strict=True):
        table.add_row(*cells, style="bold" if row["auc"]["mean"] == best else None)
    _wide_console().print(table)


def _wide_console() -> Console:
    """Returns a console of the terminal's width, or of 160 columns in a log."""
    return Console(width=None if sys.stdout.isatty() else 160)
