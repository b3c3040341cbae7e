"""Figures of a run: curves, calibration, diagnostics. Drawn by Agg, without a display."""

# Q bins, F fields

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ctrdist.metrics.histogram import CalibrationTable, RocCurve

BLUE, ORANGE, GREEN, GREY, RED = "#1f5fa8", "#d9782d", "#3c8d5a", "#8a8a8a", "#b3322b"
_LINES = (BLUE, ORANGE, GREEN, RED, "#7a5aa6", "#8c6d46", "#c65d9c", "#4aa5b5")
_DASHES = ("-", "--", ":", "-.")
_PANELS = {"training/epoch_loss": "loss", "logloss": "loss", "auc": "AUC"}
"""Metric → the label of its axis in the learning curves."""
_CLASSES = {"well_classified": GREEN, "poorly_classified": "#e8c468", "misclassified": RED}
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
_INCHES_PER_FIELD = 0.21
_FIGURES_IN_CELLS = 12
"""Largest number of fields for which the cells of a heat map show their values."""


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure without pyplot, which would keep it alive, and its (rows, columns) axes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    with matplotlib.rc_context(_STYLE):
        return figure, figure.subplots(rows, columns, squeeze=False)


def roc_figure(curve: RocCurve, area: float, title: str) -> Figure:
    """Draws a ROC curve with its AUC in the legend; no curve if the AUC is nan, thus undefined."""
    figure, ((axes,),) = new_figure(5.4, 5.2)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="random (0.5)")
    if not math.isnan(area):
        axes.plot(curve.false_P, curve.true_P, color=BLUE, lw=2, label=f"AUC {area:.4f}")
        axes.fill_between(curve.false_P, curve.true_P, color=BLUE, alpha=0.08, lw=0)
    axes.set(xlim=(0, 1), ylim=(0, 1.003), xlabel="false positive rate")
    axes.set(ylabel="true positive rate", aspect="equal")
    axes.set_title(title, loc="left")
    axes.legend(loc="lower right", frameon=False)
    return figure


def calibration_figure(table: CalibrationTable, title: str) -> Figure:
    """Draws the observed rate over the predicted probability by decile, with 95 % intervals.

    Both axes have the same scale: logarithmic where clicks are rare.
    """
    rows, positives = int(table.rows_Q.sum()), int(table.positives_Q.sum())
    low_Q, high_Q = _wilson(table.positives_Q, table.rows_Q)
    figure, ((axes,),) = new_figure(5.4, 5.2)
    rare = rows > 0 and positives / rows < _TINY_RATE
    ratio = float(table.predicted_Q @ table.rows_Q) / positives if positives else math.nan
    limits = _limits(table.predicted_Q, table.observed_Q, high_Q, logarithmic=rare)
    axes.plot(limits, limits, color=GREY, lw=1, ls="--", label="perfect")
    axes.errorbar(
        table.predicted_Q,
        np.maximum(table.observed_Q, limits[0]),
        yerr=np.maximum(np.stack([table.observed_Q - low_Q, high_Q - table.observed_Q]), 0),
        fmt="o-",
        color=BLUE,
        capsize=2.5,
        label=f"deciles, mean prediction / rate {ratio:.3f}",
    )
    if rare:
        axes.set(xscale="log", yscale="log")
    axes.set(xlim=limits, ylim=limits, xlabel="mean predicted probability")
    axes.set(ylabel="observed rate", aspect="equal")
    axes.set_title(title, loc="left")
    axes.legend(loc="upper left", frameon=False)
    low, high = int(min(table.rows_Q, default=0)), int(max(table.rows_Q, default=0))
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    note = f"{len(table.rows_Q)} bins of {each} rows\n{positives:,} positives"
    axes.text(0.97, 0.03, note, transform=axes.transAxes, ha="right", va="bottom", color=GREY)
    return figure


def _wilson(positives_Q: Any, rows_Q: Any, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Confidence interval of a binomial rate (Wilson 1927), valid for no positives too."""
    rate_Q = positives_Q / rows_Q
    centre_Q = (rate_Q + z * z / (2 * rows_Q)) / (1 + z * z / rows_Q)
    spread_Q = np.sqrt(rate_Q * (1 - rate_Q) / rows_Q + (z / (2 * rows_Q)) ** 2)
    half_Q = z * spread_Q / (1 + z * z / rows_Q)
    return centre_Q - half_Q, centre_Q + half_Q


def _limits(*values: np.ndarray, logarithmic: bool) -> tuple[float, float]:
    """Limits of both axes."""
    together = np.concatenate(values)
    top = float(together.max(initial=0.0))
    if logarithmic:
        return float(together[together > 0].min()) / 2, min(1.0, 2 * top)
    return 0.0, min(1.0, max(1.08 * top, 0.05))


def learning_curves_figure(history: Mapping[str, Mapping[int, float]], title: str) -> Figure:
    """Draws metrics over epochs; the history has the metric → epoch → value.

    There is one panel per kind of metric: both losses share one.
    """
    panels: dict[str, list[str]] = {}
    for name in history:
        panels.setdefault(_PANELS.get(name, name), []).append(name)
    number = max(1, len(panels))
    figure, (row,) = new_figure(4.6 * number, 3.8, columns=number)
    for axes, (kind, names) in zip(row, panels.items(), strict=False):
        for name in names:
            train = name.startswith("training/")
            colour, split = (ORANGE, "train") if train else (BLUE, "valid")
            points = list(history[name].items())
            axes.plot(*zip(*points, strict=True), "o-", color=colour, lw=1.8, ms=4, label=split)
            if not train:
                _mark_best(axes, points, colour, highest=kind != "loss")
        axes.set(xlabel="epoch", ylabel=kind)
        axes.locator_params(axis="x", integer=True)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.margins(x=0.06, y=0.15)
        axes.legend(frameon=False)
    figure.suptitle(title, x=0.02, ha="left")
    return figure


def _mark_best(axes: Any, points: list[tuple[int, float]], colour: str, highest: bool) -> None:
    finite = [point for point in points if math.isfinite(point[1])]
    if finite:
        best = (max if highest else min)(finite, key=lambda point: point[1])
        axes.plot(*best, "o", ms=11, mfc="none", mec=colour, mew=1.5)
        look: dict[str, Any] = {"ha": "center", "va": "bottom" if highest else "top"}
        offset = (0, 11 if highest else -11)
        axes.annotate(
            f"{best[1]:.4f}", best, offset, textcoords="offset points", color=colour, **look
        )


def abundance_figure(share: Mapping[str, float], below: float, title: str) -> Figure:
    """Draws bars of r, the part of its dimensions that each table uses, smallest first.

    The shares lie between 0 and 1. Tables below the bound count as collapsed, and are marked.
    """
    tables = sorted(share, key=lambda table: (share[table], table))
    values = [share[table] for table in tables]
    figure, ((axes,),) = new_figure(6.4, 1.4 + _INCHES_PER_FIELD * max(4, len(tables)))
    places = np.arange(len(tables))
    colours = [RED if value < below else BLUE for value in values]
    bars = axes.barh(places, values, color=colours, height=0.72)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8, color=GREY)
    axes.axvline(below, color=GREY, lw=1, ls="--")
    axes.set_yticks(places, tables, fontsize=8)
    axes.set(xlim=(0, 1.09), ylim=(len(tables) - 0.4, -0.6))
    axes.set_xlabel("information abundance / most that it can be")
    axes.grid(visible=False, axis="y")
    marked = sum(value < below for value in values)
    axes.set_title(f"{title} · {marked} of {len(tables)} below {below:g}", loc="left")
    return figure


def attention_figure(mass_FF: np.ndarray, fields: Sequence[str], title: str) -> Figure:
    """Draws a heat map of the attention between F fields: red above uniform, blue below.

    mass_FF is (F, F), from row to column.
    """
    from matplotlib.colors import TwoSlopeNorm

    count = len(fields)
    side = 2.2 + _INCHES_PER_FIELD * max(8, count) * (2 if count <= _FIGURES_IN_CELLS else 1)
    figure, ((axes,),) = new_figure(side + 1.0, side)
    uniform = 1 / max(1, count)
    top = max(float(mass_FF.max(initial=0.0)), 1.01 * uniform)
    colours = TwoSlopeNorm(vmin=0, vcenter=uniform, vmax=top)
    image = axes.imshow(mass_FF, cmap="RdBu_r", norm=colours)
    axes.set_xticks(np.arange(count), fields, rotation=90, fontsize=8)
    axes.set_yticks(np.arange(count), fields, fontsize=8)
    axes.set(xlabel="attended field", ylabel="attending field")
    axes.set_title(title, loc="left")
    axes.grid(visible=False)
    if count <= _FIGURES_IN_CELLS:
        centred: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7}
        for (row, column), value in np.ndenumerate(mass_FF):
            colour = "black" if 0.2 < colours(value) < 0.8 else "white"
            axes.text(column, row, f"{value:.2f}", color=colour, **centred)
    label = f"mean attention (white: uniform, {uniform:.3f})"
    figure.colorbar(image, ax=axes, shrink=0.8, label=label)
    return figure


def classes_figure(history: Mapping[str, Mapping[int, float]], title: str) -> Figure:
    """Draws the stacked shares of well, poorly and misclassified rows over epochs.

    Each split and label in the history has a panel. The history has "classes/<split>_<positives or
    negatives>_<class>" → epoch → share of these rows.
    """
    splits = [s for s in ("train", "valid") if any(n.startswith(f"classes/{s}") for n in history)]
    if not splits:
        return new_figure(6.2, 5.4)[0]
    figure, grid = new_figure(4.4 * len(splits) + 1.8, 5.4, rows=2, columns=len(splits))
    for (row, column), axes in np.ndenumerate(grid):
        split, label = splits[column], ("positives", "negatives")[row]
        curves = {name: history.get(f"classes/{split}_{label}_{name}", {}) for name in _CLASSES}
        steps = sorted(set().union(*curves.values()))
        epochs, bottom = np.arange(1, len(steps) + 1), np.zeros(len(steps))
        for name, colour in _CLASSES.items():
            shares = np.array([curves[name].get(step, 0.0) for step in steps])
            shown = name.replace("_", " ")
            axes.bar(epochs, shares, bottom=bottom, color=colour, width=0.85, label=shown)
            bottom += shares
        axes.set(ylim=(0, 1), ylabel="" if column else f"share of {label}")
        axes.set_xlabel("epoch" if row else "")
        axes.set_title(f"{split}, {label}", loc="left", fontsize=10)
        axes.locator_params(axis="x", integer=True)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", frameon=False)
    figure.suptitle(title, x=0.02, ha="left")
    return figure


def steps_figure(
    history: Mapping[str, Mapping[int, float]], label: str, title: str, *, logarithmic: bool
) -> Figure:
    """Draws a line over steps, which rise, for each name; the label is that of the values' axis."""
    from matplotlib.rcsetup import cycler

    figure, ((axes,),) = new_figure(8.4, 4.4)
    axes.set_prop_cycle(cycler(ls=_DASHES) * cycler(color=_LINES))
    for name, points in history.items():
        mark = "o" if len(points) == 1 else ""
        axes.plot(list(points), list(points.values()), lw=1.4, marker=mark, ms=4, label=name)
    if logarithmic and any(value > 0 for points in history.values() for value in points.values()):
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel=label)
    axes.set_title(title, loc="left")
    if history:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure
