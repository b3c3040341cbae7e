"""What a person sees of a study: its progress, and the table of its comparison."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ctrdist.metrics.comparison import paired_difference, spread
from ctrdist.training.observe import messages
from jobs.console.run import clock, plural
from jobs.console.study import Run

METRICS = {"auc": "AUC", "logloss": "logloss", "gauc": "gAUC"}
_SIGNIFICANT = 0.05


class StudyConsole:
    """A bar over the runs on a terminal, else a line for each run. Use as a context."""

    def __init__(self, runs: int, finished: int) -> None:
        self._console = Console(stderr=True)
        self._runs, self._finished, self._before = runs, finished, finished
        self._state: dict[str, str] = {}
        self._begun = time.monotonic()
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> StudyConsole:
        self._begun = time.monotonic()
        if self._finished:
            self._note(f"{self._finished} of {plural(self._runs, 'run')} are there already")
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("runs"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[text]}"),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                "", total=self._runs, completed=self._finished, text="starting"
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def list_runs(self, runs: Sequence[Run], missing: Sequence[Run]) -> None:
        """The runs of a dry run."""
        table = Table("run", "variant", "seed", "")
        for run in runs:
            there = "to train" if run in missing else "done"
            table.add_row(run.experiment.run_name, run.variant, str(run.seed), there)
        Console().print(table)

    def show(self, message: messages.Message) -> None:
        """Shows a message of one of the runs."""
        match message:
            case messages.OfRun(run=name, message=messages.Step(epoch=epoch, epochs=epochs)):
                self._state[name] = f"{name} epoch {epoch + 1}/{epochs}"
            case messages.OfRun(run=name, message=messages.RunFailed(text=text)):
                self._state.pop(name, None)
                self._note(f"{name} failed: {text}")
        self._update()

    def done(self, name: str, summary: dict[str, Any]) -> None:
        """A run has ended: its results, and when the last will."""
        self._finished += 1
        self._state.pop(name, None)
        shown = ", ".join(
            f"{title} {summary['test'][metric]:.5f}"
            for metric, title in METRICS.items()
            if metric in summary["test"]
        )
        done, left = self._finished - self._before, self._runs - self._finished
        remaining = (time.monotonic() - self._begun) / done * left
        self._note(
            f"{self._finished}/{self._runs} {name}: test {shown} "
            f"({plural(summary['epochs'], 'epoch')}, {clock(summary['train_seconds'])}); "
            f"about {clock(remaining)} left"
        )
        self._update()

    def _update(self) -> None:
        if self._bar is not None:
            text = " · ".join(list(self._state.values())[:4])
            self._bar.update(self._task, completed=self._finished, text=text)

    def _note(self, text: str) -> None:
        console = self._console if self._bar is None else self._bar.console
        console.print(text, highlight=False, soft_wrap=True, markup=False)


class SearchConsole:
    """A line for each trial that has ended. Use as a context."""

    def __init__(self, trials: int) -> None:
        self._console = Console(stderr=True)
        self._trials, self._ended, self._best = trials, 0, -math.inf
        self._begun = time.monotonic()

    def __enter__(self) -> SearchConsole:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, message: dict[str, Any]) -> None:
        """A message of :func:`cluster.tuning.search`."""
        self._ended += 1
        result = message["result"]
        value = result.get("objective", -math.inf)
        text = message["error"] or f"valid objective {value:.5f}, epoch {result.get('epoch')}"
        best = " (best so far)" if value > self._best and message["status"] == "trained" else ""
        if best:
            self._best = value
        remaining = (time.monotonic() - self._begun) / self._ended * (self._trials - self._ended)
        self._console.print(
            f"{self._ended}/{self._trials} {message['run']} {message['status']}: {text}{best}; "
            f"about {clock(remaining)} left",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


def show_search(
    name: str, trials: Sequence[Mapping[str, Any]], monitor: str, most: int = 12
) -> str:
    """Prints the best trials, and returns all as Markdown; the order is that of the valid split."""
    keys = list(trials[0]["settings"])
    metrics = ("valid_auc", "test_auc", "test_logloss")
    headings = ["trial", *(key.split(".", 1)[-1] for key in keys), f"valid {monitor}", *metrics]
    headings.append("epochs")
    rows = []
    for trial in trials:
        result = trial["result"]
        numbers = [result.get("objective"), *(result.get(metric) for metric in metrics)]
        rows.append(
            [
                trial["run"].rsplit(".", 1)[-1],
                *(_setting(trial["settings"][key]) for key in keys),
                *("–" if number is None else f"{number:.5f}" for number in numbers),
                f"{result.get('epoch', '–')}" + ("" if trial["status"] == "trained" else " (cut)"),
            ]
        )
    table = Table(*headings, title=f"{name}: the best {min(most, len(rows))} of {len(rows)} trials")
    for row in rows[:most]:
        table.add_row(*row)
    _wide_console().print(table)
    lines = [f"# {name}", "", "Ordered by the valid split; test is shown and was not used.", ""]
    lines += ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _setting(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _wide_console() -> Console:
    """The terminal, or 160 columns where there is none: tables in a log need not be folded."""
    return Console(width=None if sys.stdout.isatty() else 160)


def comparison_rows(
    results: Mapping[str, Mapping[int, Mapping[str, Any]]], references: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row per variant, in the order of `results`.

    Args:
        results: variant → seed → results of the run.
        references: variant → the variant that its differences are taken against.
    """
    rows = []
    for variant, by_seed in results.items():
        reference = references[variant]
        row: dict[str, Any] = {
            "variant": variant,
            "reference": reference,
            "seeds": sorted(by_seed),
        }
        for split, metric in (("test", "auc"), ("test", "logloss"), ("test", "gauc")):
            values = _values(by_seed, split, metric)
            if values:
                row[metric] = vars(spread(values))
        row["valid_auc"] = vars(spread(_values(by_seed, "valid", "auc")))
        if variant != reference and reference in results:
            row["auc_difference"] = vars(
                paired_difference(
                    _values(by_seed, "test", "auc"), _values(results[reference], "test", "auc")
                )
            )
        row["train_seconds"] = spread(
            {seed: summary["train_seconds"] for seed, summary in by_seed.items()}
        ).mean
        rows.append(row)
    return rows


def _values(by_seed: Mapping[int, Mapping[str, Any]], split: str, metric: str) -> dict[int, float]:
    return {
        seed: summary[split][metric]
        for seed, summary in by_seed.items()
        if metric in (summary.get(split) or {})
    }


def _cells(row: Mapping[str, Any], several: bool) -> list[str]:
    difference = row.get("auc_difference")
    is_reference = row["variant"] == row["reference"]
    return [
        row["variant"],
        str(len(row["seeds"])),
        *(_spread(row.get(metric)) for metric in METRICS),
        _spread(row["valid_auc"]),
        "reference" if is_reference else _signed(difference),
        *(["–" if is_reference else row["reference"]] if several else []),
        _p(difference),
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings, and the cells of each row; what differences are against, where that varies."""
    several = len({row["reference"] for row in rows}) > 1
    metrics = (f"test {metric}" for metric in METRICS.values())
    against = ["against"] if several else []
    headings = ["variant", "seeds", *metrics, "valid AUC", "Δ test AUC", *against, "p"]
    return headings, [_cells(row, several) for row in rows]


def show_comparison(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the table; the best test AUC is bold."""
    headings, lines = _table(rows)
    table = Table(*headings, title=name)
    best = max(row["auc"]["mean"] for row in rows)
    for row, cells in zip(rows, lines, strict=True):
        table.add_row(*cells, style="bold" if row["auc"]["mean"] == best else None)
    _wide_console().print(table)


def markdown(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for a result file."""
    headings, cells = _table(rows)
    against = "" if "against" in headings else f" against {rows[0]['reference']}"
    lines = [
        f"# {name}",
        "",
        "Mean ± standard deviation over seeds; Δ and p (paired t-test over common seeds)"
        f"{against}.",
        "",
        "| " + " | ".join(headings) + " |",
        "|" + "---|" * len(headings),
    ]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join(lines) + "\n"


def _spread(value: Mapping[str, float] | None) -> str:
    if value is None or math.isnan(value["mean"]):
        return "–"
    sd = "" if math.isnan(value["sd"]) else f" ± {value['sd']:.5f}"
    return f"{value['mean']:.5f}{sd}"


def _signed(difference: Mapping[str, float] | None) -> str:
    if difference is None or math.isnan(difference["mean"]):
        return "–"
    sd = "" if math.isnan(difference["sd"]) else f" ± {difference['sd']:.5f}"
    return f"{difference['mean']:+.5f}{sd}"


def _p(difference: Mapping[str, float] | None) -> str:
    if difference is None or math.isnan(difference["p"]):
        return "–"
    mark = " *" if difference["p"] < _SIGNIFICANT else ""
    p = "< 0.001" if difference["p"] < 0.001 else f"{difference['p']:.3f}"
    return p + mark
