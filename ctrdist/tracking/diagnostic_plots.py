"""Figures of a run's diagnostics: tables, attention, classes of rows, norms over steps."""

# F fields

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ctrdist.metrics.arrays import Floats
from ctrdist.tracking.plots import BLUE, GREEN, GREY, ORANGE, RED, add_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES = (BLUE, ORANGE, GREEN, RED, "#7a5aa6", "#8c6d46", "#c65d9c", "#4aa5b5")
_DASHES = ("-", "--", ":", "-.")
_CLASSES = {"well_classified": GREEN, "poorly_classified": "#e8c468", "misclassified": RED}
_INCHES_PER_FIELD = 0.21
_FIGURES_IN_CELLS = 12
"""Largest number of fields for which the cells of a heat map show their values."""


def abundance_figure(share: Mapping[str, float], below: float, title: str) -> Figure:
    """Draws bars of r, the part of its dimensions that each table uses, smallest first.

    Args:
        share: table → r, between 0 and 1.
        below: tables under this value count as collapsed, and are marked.
        title: title of the figure: the run's name.
    """
    tables = sorted(share, key=lambda table: (share[table], table))
    figure = new_figure((6.4, 1.4 + _INCHES_PER_FIELD * max(4, len(tables))))
    axes = add_axes(figure)
    places = np.arange(len(tables))
    values = [share[table] for table in tables]
    colours = [RED if value < below else BLUE for value in values]
    axes.barh(places, values, color=colours, height=0.72)
    axes.axvline(below, color=GREY, lw=1, ls="--")
    for place, value in zip(places.tolist(), values, strict=True):
        axes.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=8, color=GREY)
    axes.set(
        yticks=places,
        yticklabels=tables,
        xlim=(0, 1.09),
        ylim=(len(tables) - 0.4, -0.6),
        xlabel="information abundance / most that it can be",
    )
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.grid(visible=False, axis="y")
    marked = sum(value < below for value in values)
    axes.set_title(f"{title} · {marked} of {len(tables)} below {below:g}", loc="left")
    return figure


def attention_figure(mass_FF: Floats, fields: Sequence[str], title: str) -> Figure:
    """Draws a heat map of the attention between fields: red above uniform, blue below.

    Args:
        mass_FF: (F, F), from row to column.
        fields: names of the F fields.
        title: title of the figure: the run's name.
    """
    from matplotlib.colors import TwoSlopeNorm

    count = len(fields)
    side = 2.2 + _INCHES_PER_FIELD * max(8, count) * (2 if count <= _FIGURES_IN_CELLS else 1)
    figure = new_figure((side + 1.0, side))
    axes = figure.add_subplot()
    uniform = 1 / max(1, count)
    top = max(float(mass_FF.max(initial=0.0)), 1.01 * uniform)
    colours = TwoSlopeNorm(vmin=0, vcenter=uniform, vmax=top)
    image = axes.imshow(mass_FF, cmap="RdBu_r", norm=colours)
    places = np.arange(count)
    axes.set(xticks=places, yticks=places, xlabel="attended field", ylabel="attending field")
    axes.set_xticklabels(fields, rotation=90, fontsize=8)
    axes.set_yticklabels(fields, fontsize=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if count <= _FIGURES_IN_CELLS:
        for (row, column), value in np.ndenumerate(mass_FF):
            colour = "black" if 0.2 < colours(value) < 0.8 else "white"
            centred: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7}
            axes.text(column, row, f"{value:.2f}", color=colour, **centred)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label(f"mean attention (white: uniform, {uniform:.3f})")
    bar.outline.set_visible(False)
    axes.set_title(title, loc="left")
    return figure


def classes_figure(history: Mapping[str, Mapping[int, float]], title: str) -> Figure:
    """Draws the stacked shares of well, poorly and misclassified rows over epochs.

    Each split and label in the history has a panel.

    Args:
        history: "<split>/<positives or negatives>_<class>" → step → share of these rows.
        title: title of the figure: the run's name.
    """
    from matplotlib.ticker import MaxNLocator

    splits = [s for s in ("train", "valid") if any(n.startswith(f"{s}/") for n in history)]
    figure = new_figure((4.4 * max(1, len(splits)) + 1.8, 5.4))
    for row, label in enumerate(("positives", "negatives")):
        for column, split in enumerate(splits):
            axes = add_axes(figure, 2, len(splits), row * len(splits) + column + 1)
            curves = {name: history.get(f"{split}/{label}_{name}", {}) for name in _CLASSES}
            steps = sorted(set().union(*curves.values()))
            epochs, bottom = np.arange(1, len(steps) + 1), np.zeros(len(steps))
            for name, colour in _CLASSES.items():
                shares = np.array([curves[name].get(step, 0.0) for step in steps])
                shown = name.replace("_", " ")
                axes.bar(epochs, shares, bottom=bottom, color=colour, width=0.85, label=shown)
                bottom = bottom + shares
            axes.set(ylim=(0, 1), ylabel=f"share of {label}" if column == 0 else "")
            axes.set_title(f"{split}, {label}", loc="left", fontsize=10)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if row == 1:
                axes.set_xlabel("epoch")
    if splits:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside right upper", frameon=False)
    figure.suptitle(title, x=0.02, ha="left")
    return figure


def steps_figure(
    history: Mapping[str, Mapping[int, float]], label: str, title: str, *, logarithmic: bool
) -> Figure:
    """Draws a line over steps for each name.

    Args:
        history: name → step → value; steps rise.
        label: name of the values' axis.
        title: title of the figure: the run's name.
        logarithmic: scale of the values' axis.
    """
    figure = new_figure((8.4, 4.4))
    axes = add_axes(figure)
    for index, (name, points) in enumerate(history.items()):
        dashes = _DASHES[index // len(_LINES) % len(_DASHES)]
        mark = "o" if len(points) == 1 else ""
        look: dict[str, Any] = {"lw": 1.4, "ls": dashes, "marker": mark, "ms": 4}
        colour = _LINES[index % len(_LINES)]
        axes.plot(list(points), list(points.values()), color=colour, label=name, **look)
    if logarithmic and any(value > 0 for points in history.values() for value in points.values()):
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel=label)
    axes.set_title(title, loc="left")
    if history:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure
