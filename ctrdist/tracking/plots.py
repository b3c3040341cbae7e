"""Figures of a run: ROC curve, calibration, learning curves. Drawn by Agg, without a display."""

# Q bins

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ctrdist.metrics.arrays import Floats
from ctrdist.metrics.calibration import CalibrationTable
from ctrdist.metrics.roc import RocCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY, RED = "#1f5fa8", "#d9782d", "#3c8d5a", "#8a8a8a", "#b3322b"
_COLOURS = {"valid": BLUE, "train": ORANGE, "test": GREEN}
_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
}
_TINY_RATE = 0.02


def roc_figure(curve: RocCurve, area: float, title: str) -> Figure:
    """Draws a ROC curve and its AUC.

    Args:
        curve: the curve.
        area: its AUC; nan if it is undefined, which draws no curve.
        title: title of the figure: the run's name and the split.
    """
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="random (0.5)")
    if not math.isnan(area):
        axes.plot(curve.false_P, curve.true_P, color=BLUE, lw=2, label=f"AUC {area:.4f}")
        axes.fill_between(curve.false_P, curve.true_P, color=BLUE, alpha=0.08, lw=0)
    axes.set(
        xlim=(0, 1), ylim=(0, 1.003), xlabel="false positive rate", ylabel="true positive rate"
    )
    axes.set_title(title, loc="left")
    axes.legend(loc="lower right", frameon=False)
    return figure


def calibration_figure(table: CalibrationTable, title: str) -> Figure:
    """Draws the observed rate over the predicted probability by decile, with 95 % intervals.

    Both axes have the same scale: logarithmic where clicks are rare.

    Args:
        table: the deciles.
        title: title of the figure: the run's name and the split.
    """
    rows, positives = int(table.rows_Q.sum()), int(table.positives_Q.sum())
    low_Q, high_Q = _wilson(table.positives_Q, table.rows_Q)
    figure, axes = _square()
    rare = rows > 0 and positives / rows < _TINY_RATE
    ratio = float(table.predicted_Q @ table.rows_Q) / positives if positives else math.nan
    limits = _limits(table.predicted_Q, table.observed_Q, high_Q, logarithmic=rare)
    axes.plot(limits, limits, color=GREY, lw=1, ls="--", label="perfect")
    errors = np.maximum(np.stack([table.observed_Q - low_Q, high_Q - table.observed_Q]), 0)
    axes.errorbar(
        table.predicted_Q,
        np.maximum(table.observed_Q, limits[0]),
        yerr=errors,
        color=BLUE,
        fmt="o-",
        lw=1.5,
        ms=5,
        elinewidth=1,
        capsize=2.5,
        label=f"deciles, mean prediction / rate {ratio:.3f}",
    )
    if rare:
        axes.set(xscale="log", yscale="log")
    axes.set(xlim=limits, ylim=limits, xlabel="mean predicted probability", ylabel="observed rate")
    axes.set_title(title, loc="left")
    axes.legend(loc="upper left", frameon=False)
    low, high = int(min(table.rows_Q, default=0)), int(max(table.rows_Q, default=0))
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    note = f"{len(table.rows_Q)} bins of {each} rows\n{positives:,} positives"
    axes.text(0.97, 0.03, note, transform=axes.transAxes, ha="right", va="bottom", color=GREY)
    return figure


def learning_curves_figure(epochs: Sequence[Mapping[str, float]], title: str) -> Figure:
    """Draws metrics per epoch, one panel per kind of metric: both losses share one.

    Args:
        epochs: metrics of each epoch, first to last; a metric may be missing in some.
        title: title of the figure: the run's name.
    """
    from matplotlib.ticker import MaxNLocator

    panels: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for epoch in epochs for name in epoch):
        panels.setdefault(_kind(name), []).append(name)
    figure = new_figure(figsize=(4.6 * max(1, len(panels)), 3.8))
    for position, (kind, names) in enumerate(panels.items(), start=1):
        axes = add_axes(figure, 1, len(panels), position)
        for name in names:
            colour = _COLOURS.get(name.split("/")[0], GREY)
            points = [(i, e[name]) for i, e in enumerate(epochs, start=1) if name in e]
            axes.plot(*zip(*points, strict=True), "o-", color=colour, lw=1.8, ms=4, label=name)
            if name.startswith("valid") and kind in ("AUC", "gAUC", "loss"):
                _mark_best(axes, points, colour, highest=kind != "loss")
        axes.set(xlabel="epoch", ylabel=kind)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.margins(x=0.06, y=0.15)
        axes.legend(frameon=False)
    figure.suptitle(title, x=0.02, ha="left")
    return figure


def _wilson(positives_Q: Any, rows_Q: Any, z: float = 1.96) -> tuple[Floats, Floats]:
    """Confidence interval of a binomial rate (Wilson 1927), valid for no positives too."""
    rate_Q = positives_Q / rows_Q
    centre_Q = (rate_Q + z * z / (2 * rows_Q)) / (1 + z * z / rows_Q)
    spread_Q = np.sqrt(rate_Q * (1 - rate_Q) / rows_Q + (z / (2 * rows_Q)) ** 2)
    half_Q = z * spread_Q / (1 + z * z / rows_Q)
    return centre_Q - half_Q, centre_Q + half_Q


def _limits(*values: Floats, logarithmic: bool) -> tuple[float, float]:
    """Limits of both axes."""
    together = np.concatenate(values)
    if together.size == 0:
        return 0.0, 1.0
    top = float(together.max())
    if not logarithmic:
        return 0.0, min(1.0, max(1.08 * top, 0.05))
    return float(together[together > 0].min()) / 2, min(1.0, 2 * top)


def _kind(name: str) -> str:
    last = name.rsplit("/")[-1]
    return {"loss": "loss", "logloss": "loss", "auc": "AUC", "gauc": "gAUC"}.get(last, last)


def _mark_best(axes: Any, points: list[tuple[int, float]], colour: str, highest: bool) -> None:
    finite = [point for point in points if math.isfinite(point[1])]
    if finite:
        best = (max if highest else min)(finite, key=lambda point: point[1])
        axes.plot(*best, "o", ms=11, mfc="none", mec=colour, mew=1.5)
        axes.annotate(
            f"{best[1]:.4f}",
            best,
            (0, 11 if highest else -11),
            textcoords="offset points",
            ha="center",
            va="bottom" if highest else "top",
            color=colour,
        )


def _square() -> tuple[Figure, Any]:
    figure = new_figure(figsize=(5.4, 5.2))
    axes = add_axes(figure)
    axes.set_aspect("equal", adjustable="box")
    return figure, axes


def new_figure(figsize: tuple[float, float]) -> Figure:
    """A figure without pyplot, which would keep it alive and ask for a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, *position: int) -> Any:
    """Axes with a grid behind the curves, and no frame above and to the right."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        return figure.add_subplot(*position)
