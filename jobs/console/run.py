"""Progress of a run: a bar on a terminal, otherwise lines; and a table of its results."""

from __future__ import annotations

import math
import sys
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from ctrdist.training.faults.stopping import interrupted_text
from ctrdist.training.observe import messages

LINE_SECONDS = 10.0
_TABLES_NAMED = 10
_METRICS = {
    "auc": "AUC",
    "logloss": "logloss",
    "ne": "NE",
    "calibration": "calibration",
    "gauc": "gAUC",
    "rows": "rows",
}


class RunConsole:
    """Shows the messages of a run on stderr, and its results on stdout. Use as a context."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("starting", total=None, text="")
        self._steps_per_epoch = 0
        self._last_line = time.monotonic()
        self._hung = False

    def __enter__(self) -> RunConsole:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        say(self._console, text)

    def show(self, message: messages.Message) -> None:
        """Shows a message of a run; ignores the kinds that the user need not see."""
        match message:
            case messages.Start():
                self._on_start(message)
            case messages.Fold():
                self._on_fold(message)
            case messages.Chosen():
                self._on_chosen(message)
            case messages.Step():
                self._on_step(message)
            case messages.Evaluation(split="valid"):
                self._on_evaluation(message)
            case messages.Logged():
                self.note(message.text)
            case messages.Hang():
                self._on_hang(message)
            case messages.Restart():
                self._on_restart(message)
            case messages.Waiting():
                self.note(
                    f"waiting for {plural(message.wanted, 'worker')}: the cluster has "
                    f"{plural(message.there, message.unit)}. --min-workers lets a run train with "
                    "fewer"
                )
            case messages.Stopping():
                self.note("writing a checkpoint; a second signal ends the run at once")
            case messages.Interrupted():
                self.note(interrupted_text(message.step))

    def _on_start(self, m: messages.Start) -> None:
        self._steps_per_epoch = m.steps_per_epoch
        self._last_line = time.monotonic()
        held = ", ".join(f"{b / 2**20:,.1f}" for b in m.bytes_per_rank[:8])
        more = " …" if len(m.bytes_per_rank) > 8 else ""
        self.note(
            f"{m.model} · run {m.run_name} · {plural(m.workers, 'worker')} on {m.device}\n"
            f"{m.tables} tables ({', '.join(m.kinds)}), {m.table_parameters:,} weights, "
            f"MiB per worker: {held}{more}; tower {m.dense_parameters:,} weights"
        )
        if m.resumed_step:
            self.note(f"resumes from step {m.resumed_step:,}")

    def _on_fold(self, m: messages.Fold) -> None:
        title = f"cross-validation {m.fold + 1}/{m.folds}"
        self._bar.update(self._task, description=title, total=m.folds, completed=m.fold, text="")
        if self._bar.disable and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self.note(f"{title}, to choose the epoch; --train.folds 0 leaves it out")

    def _on_chosen(self, m: messages.Chosen) -> None:
        found = (
            f"epoch {m.epochs} with a share of {m.share:.1f} for the tower: log loss "
            f"{m.gain:.5f} below that of logistic regression, {m.bound:.5f} less the margin"
            if m.epochs
            else "no epoch of the tower gains more than chance on logistic regression"
        )
        self.note(f"cross-validation over {plural(m.rows, 'training row')}: {found}")

    def _on_step(self, m: messages.Step) -> None:
        total = max(self._steps_per_epoch, 1)
        done = total - m.steps_left
        left = m.steps_left * (m.epoch_rows / max(done, 1)) / max(m.samples_per_s, 1e-9)
        text = f"loss {m.loss:.4f} · {m.samples_per_s:,.0f} rows/s · {clock(left)} left"
        title = f"epoch {m.epoch + 1}/{m.epochs}"
        self._bar.update(self._task, description=title, total=total, completed=done, text=text)
        if self._bar.disable and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self.note(f"{title}: {100 * done / total:.0f}%, {text}")

    def _on_hang(self, m: messages.Hang) -> None:
        if not self._hung:  # all workers hang, and one line is enough
            self.note(
                f"worker {m.rank}: nothing finished for {m.seconds:g} s; Python stacks of all "
                f"workers are in {m.stacks}"
            )
        self._hung = True

    def _on_restart(self, m: messages.Restart) -> None:
        self._hung, failure = False, m.failure
        where = f"from step {m.step:,}" if m.step else "from the beginning"
        if failure.told_to_stop:
            self.note(f"{failure.reason}; the workers start again {where}")
            return
        most = "" if failure.max_restarts < 0 else f" of {failure.max_restarts}"
        self.note(
            f"worker {failure.rank} failed ({failure.reason}); the workers start again {where} "
            f"(restart {failure.restarts}{most})"
        )

    def _on_evaluation(self, m: messages.Evaluation) -> None:
        shown = f"AUC {m.metrics['auc']:.5f}, logloss {m.metrics['logloss']:.5f}"
        if "gauc" in m.metrics:
            shown += f", gAUC {m.metrics['gauc']:.5f}"
        mark = " (best)" if m.best else f" (no better for {m.stale_epochs})"
        name = f"epoch {m.epoch + 1}"
        if m.epoch < 0:
            name += ", logistic regression"
        elif "tower_share" in m.metrics:
            share, tower = m.metrics["tower_share"], m.metrics["tower_logloss"]
            shown += f"; tower alone {tower:.5f}, its share {share:.1f}"
            if not m.best and not m.stale_epochs:
                mark = " (the tower still improves)"
        self.note(f"{name}: train loss {m.train_loss:.5f}, valid {shown}{mark}")
        self._last_line = time.monotonic()

    def show_results(self, result: dict[str, Any]) -> None:
        """Prints the metrics, where everything is, and what to do next."""
        from ctrdist.tracking.sender import replay_command  # slow to import

        uri = result.get("tracking_uri") or ""
        local = uri.startswith("sqlite")
        title = f"{result['run_name']}, best of {plural(result['epochs'], 'epoch')}"
        _show_metrics(result, ("valid", "test"), title)
        lines = [
            *_gain(result),
            f"stopped: {result['stopped']}; {result['steps']:,} steps, "
            f"{result['rows_seen']:,} rows, {result['samples_per_s']:,.0f} rows/s",
            *_throughput(result.get("throughput") or {}),
            *_collapsed(result.get("collapsed_tables") or {}),
            f"run        {result['run_dir']}  (MLflow run {result.get('run_id', '–')})",
            f"checkpoint {result['checkpoint']}",
            f"next: mlflow ui --backend-store-uri {uri}" if local else f"MLflow: {uri or 'off'}",
            *([f"      then open {page}"] if (page := result.get("mlflow_page")) else []),
            *(
                f"{service} has not got all of this run: {replay_command(result['run_dir'])}"
                for service in result.get("undelivered", ())
            ),
        ]
        say(Console(), "\n".join(lines))


def show_evaluation(result: dict[str, Any], split: str) -> None:
    """Prints the results of jobs/evaluate.py."""
    _show_metrics(result, (split,), f"step {result['step']:,}")
    say(Console(), f"checkpoint {result['checkpoint']}")


def say(console: Console, text: str) -> None:
    """Prints text as it is: without markup, because messages of libraries may hold [brackets]."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def plural(count: int, noun: str) -> str:
    """Returns the count and its noun: ``1 worker``, ``2 workers``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def clock(seconds: float) -> str:
    """Returns hours, minutes and seconds: ``1:02:03``."""
    return str(timedelta(seconds=int(seconds)))


def _show_metrics(result: dict[str, Any], splits: tuple[str, ...], title: str) -> None:
    table = Table("split", *_METRICS.values(), title=title)
    for split in splits:
        metrics = result.get(split)
        if metrics:
            table.add_row(split, *(_number(name, metrics.get(name)) for name in _METRICS))
        if metrics and "wide_auc" in metrics:
            wide = {name: metrics[f"wide_{name}"] for name in ("auc", "logloss")}
            wide["ne"] = metrics["ne"] * wide["logloss"] / metrics["logloss"]
            name = f"{split}, logistic regression"
            table.add_row(name, *(_number(name, wide.get(name)) for name in _METRICS))
    Console().print(table)


def _gain(result: dict[str, Any]) -> list[str]:
    """Returns lines that compare the model with logistic regression and with the click rate."""
    split = "test" if result.get("test") else "valid"
    metrics = result.get(split) or {}
    if not metrics or not math.isfinite(metrics["ne"]):
        return []
    ne = metrics["ne"]
    side = "below" if ne < 1 else "above"
    against = [f"{100 * abs(1 - ne):.1f}% {side} that of always predicting the click rate"]
    warnings = []
    if ne >= 1:
        warnings.append(
            f"warning: on {split} the model is worse than the mere click rate. The rows of {split} "
            "may differ from those of training, or the fields may tell nothing about the label"
        )
    wide = metrics.get("wide_logloss")
    if wide:
        gain = 1 - metrics["logloss"] / wide
        side = "below" if gain >= 0 else "above"
        how = f"{100 * abs(gain):.2f}% {side}" if gain else "equal to"
        against.insert(0, f"{how} that of logistic regression")
        if gain <= 0:
            share = (result.get("valid") or {}).get("tower_share", 0.0)
            warnings.append(
                "the tower gains nothing here that can be told from chance: the model is its "
                "logistic regression"
                if share == 0
                else f"warning: on {split} the model is not better than logistic regression, "
                "though it seemed so when the epoch was chosen"
            )
    return [f"{split}: log loss {' and '.join(against)}", *warnings]


def _throughput(t: dict[str, float]) -> list[str]:
    """Returns lines on the parts of a step's time and its distance from the machine's limits."""
    if not t:
        return []
    shares = ", ".join(
        f"{name} {100 * t[f'share_{name}']:.0f}%"
        for name in ("loader", "forward", "backward", "optimizer", "other")
    )
    if "communication" in t:
        shares += f"; workers communicated for {100 * t['communication']:.0f}% of it"
    return [
        f"a step took {t['step_ms']:.1f} ms: {shares}",
        f"this machine's floor for it is {t['floor_ms']:.1f} ms, {t['times_the_floor']:.0f} times "
        f"less: tower at {t['tower_gflops_per_worker']:.1f} of "
        f"{t['matmul_gflops_per_worker']:.0f} GFLOP/s, tables at "
        f"{t['tables_gb_per_s_per_worker']:.2f} of {t['copy_gb_per_s_per_worker']:.1f} GB/s, "
        "per worker",
    ]


def _collapsed(found: dict[str, Any]) -> list[str]:
    """Returns a line that names the tables that use few of their dimensions, if there are any."""
    tables = found.get("tables") or []
    if not tables:
        return []
    more = f" and {len(tables) - _TABLES_NAMED:,} more" if len(tables) > _TABLES_NAMED else ""
    uses = "uses" if len(tables) == 1 else "use"
    return [
        f"{len(tables):,} of {plural(found['of'], 'table')} {uses} less than "
        f"{100 * found['below']:g}% of the dimensions: {', '.join(tables[:_TABLES_NAMED])}{more}"
    ]


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if name == "rows" else f"{value:.5f}"
