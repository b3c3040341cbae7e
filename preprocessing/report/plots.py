"""Plots of the report: the `d` of SVG paths in a box of 100 by 100 that the page stretches."""

# T points, B bars

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from preprocessing.report.measures import interval

Points = Sequence[tuple[float, float] | None]
"""T times (x, y), each in [0, 1], with y upwards; None breaks the line."""


def series_plot(series: dict[str, Any]) -> dict[str, Any] | None:
    """The click rate over position or time with its confidence interval; None without rows."""
    rows, clicks = series["rows"], series["clicks"]
    if not rows:
        return None
    least = max(1, sum(rows) / len(rows) / 5)  # a rate of very few rows says nothing
    bounds = [interval(c, n) if n >= least else None for c, n in zip(clicks, rows, strict=True)]
    there = [b for b in bounds if b]
    low, high = _round_range(min(b[0] for b in there), max(b[1] for b in there))
    size = len(rows)

    def scaled(values: Sequence[float | None]) -> Points:
        return [
            None if v is None else ((i + 0.5) / size, (v - low) / (high - low))
            for i, v in enumerate(values)
        ]

    rates = [c / n if b else None for c, n, b in zip(clicks, rows, bounds, strict=True)]
    strips: list[dict[str, Any]] = []
    for index, name in enumerate(series["split"]):
        if name and strips and strips[-1]["name"] == name and strips[-1]["end"] == index:
            strips[-1]["end"] = index + 1
        elif name:
            strips.append({"name": name, "start": index, "end": index + 1})
    return {
        "over": series["over"],
        "line": _line(scaled(rates)),
        "band": _band(scaled([b and b[0] for b in bounds]), scaled([b and b[1] for b in bounds])),
        "low": low,
        "high": high,
        "middle": (low + high) / 2,
        "mean": 100 * (1 - (sum(clicks) / sum(rows) - low) / (high - low)),
        "ticks": _ticks(series),
        "strips": [
            {
                "name": s["name"],
                "left": 100 * s["start"] / size,
                "width": 100 * (s["end"] - s["start"]) / size,
            }
            for s in strips
        ],
        "step": f"{series['width']:,} rows"
        if series["over"] == "position"
        else _duration(series["width"]),
    }


def histogram_plot(histogram: dict[str, Any]) -> dict[str, Any]:
    """The distribution of a number by split, and its click rate by value."""
    edges = histogram["edges"]
    log = histogram["scale"] == "symlog"
    grid = [math.copysign(math.log1p(abs(e)), e) if log else e for e in edges]
    span = grid[-1] - grid[0] or 1.0
    grid = [(g - grid[0]) / span for g in grid]
    widths = [b - a for a, b in itertools.pairwise(grid)]
    level = max(widths) < 1.01 * min(widths)
    # Bars of integers on a logarithmic axis differ in width: their areas stand for the rows.
    shares = [
        [s * (1 if level else min(widths) / w) for s, w in zip(one, widths, strict=True)]
        for one in histogram["shares"]
    ]
    train, *others = shares
    largest = max(max(s, default=0) for s in shares) or 1.0
    rates = histogram["click_rate"]
    rows = histogram["rows"]
    enough = max(50, sum(rows) / 2000)
    rates = [r if n >= enough else None for r, n in zip(rates, rows, strict=True)]
    highest = max((r for r in rates if r is not None), default=0) or 1.0
    ticks: list[dict[str, Any]] = []
    whole = all(abs(e % 1 - 0.5) < 1e-9 for e in edges)
    narrow = edges[-1] - edges[0] < max(abs(edges[0]), abs(edges[-1])) / 20
    for part in (0, 0.5, 1) if narrow else (0, 0.25, 0.5, 0.75, 1):
        index = min(range(len(grid)), key=lambda i: abs(grid[i] - part))
        value = edges[index]
        if whole:  # edges lie half-way between two integers
            value = math.ceil(value) if index < len(grid) - 1 else math.floor(value)
        value = 0.0 if abs(value) < (edges[-1] - edges[0]) / 1e4 else value
        if not ticks or ticks[-1]["left"] < 100 * grid[index] - 8:
            text = number(value) if narrow else _compact(value)
            ticks.append({"text": text, "left": 100 * grid[index]})
    return {
        "scale": histogram["scale"],
        "bars": bars(grid, [s / largest for s in train]),
        "others": [
            {"name": name, "steps": _steps(grid, [s / largest for s in shares])}
            for name, shares in zip(("valid", "test"), others, strict=True)
            if any(shares)
        ],
        "spark": bars(grid, [s / (max(train, default=0) or 1) for s in train], gap=0),
        "largest": largest if level else None,
        "rates": _steps(grid, [None if r is None else r / highest for r in rates]),
        "highest": highest,
        "ticks": ticks,
    }


def bars(edges: Sequence[float], heights: Sequence[float], gap: float = 0.08) -> str:
    """Bars of B heights between (B + 1) edges; all in [0, 1]."""
    parts = []
    for left, right, height in zip(edges, edges[1:], heights, strict=False):
        if height > 0:
            space = gap * (right - left) / 2
            top = _y(max(height, 0.01))
            parts.append(f"M{_x(left + space)} 100V{top}H{_x(right - space)}V100Z")
    return "".join(parts)


def _steps(edges: Sequence[float], heights: Sequence[float | None]) -> str:
    """A line that is level between two of (B + 1) edges, and broken where there is no height."""
    parts, drawing = [], False
    for left, right, height in zip(edges, edges[1:], heights, strict=False):
        if height is None:
            drawing = False
            continue
        parts.append(f"{'V' if drawing else f'M{_x(left)} '}{_y(height)}H{_x(right)}")
        drawing = True
    return "".join(parts)


def _line(points: Points) -> str:
    """A line through the points, broken at None; a point alone becomes a short dash."""
    parts, command = [], "M"
    for index, point in enumerate(points):
        if point is None:
            command = "M"
            continue
        parts.append(f"{command}{_x(point[0])} {_y(point[1])}")
        alone = command == "M" and (index + 1 == len(points) or points[index + 1] is None)
        if alone:
            parts.append("h0.4")
        command = "L"
    return "".join(parts)


def _band(low: Points, high: Points) -> str:
    """The area between two lines that are broken at the same places."""
    parts: list[str] = []
    run: list[int] = []
    for index in [*range(len(low)), None]:
        if index is not None and low[index] is not None:
            run.append(index)
            continue
        if len(run) > 1:
            there = _line([high[i] for i in run])
            back = _line([low[i] for i in reversed(run)])
            parts.append(f"{there}L{back[1:]}Z")
        run = []
    return "".join(parts)


def _x(value: float) -> str:
    return f"{100 * value:.2f}".rstrip("0").rstrip(".")


def _y(value: float) -> str:
    return f"{100 * (1 - value):.1f}".rstrip("0").rstrip(".")


def _ticks(series: dict[str, Any]) -> list[dict[str, Any]]:
    start, span = series["start"], len(series["rows"]) * series["width"]
    if series["over"] == "position":
        size = 10 ** math.floor(math.log10(span))
        step = next(size * part for part in (1, 0.5, 0.2, 0.1) if span / (size * part) >= 3)
        first = math.ceil(start / step)
        places = [step * i for i in range(first, int((start + span) / step) + 1)]
        return [{"text": _compact(p), "left": 100 * (p - start) / span} for p in places]
    form = "%Y-%m-%d" if span > 4 * 86400 else "%m-%d %H:%M"
    found = []
    for part in (0, 0.25, 0.5, 0.75, 1):
        try:
            text = datetime.fromtimestamp(start + part * span, UTC).strftime(form)
        except (OverflowError, OSError, ValueError):
            text = f"{start + part * span:,.0f} s"
        found.append({"text": text, "left": 100 * part})
    return found


def _round_range(low: float, high: float) -> tuple[float, float]:
    """The next round bounds around a range of click rates."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-6)))
    step = step / 2 if (high - low) / step < 4 else step
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return max(0.0, low), min(1.0, high) if high > low else low + step


def number(value: float | None) -> str:
    """A number with separators of thousands where it is whole, otherwise with four digits."""
    if value is None:
        return "–"
    if value == round(value) and abs(value) < 1e15:
        return f"{round(value):,}".replace("-", "−")
    if 1e4 <= abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def _compact(value: float) -> str:
    """A number on an axis: 1.2k, 3.4M."""
    size = abs(value)
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{float(f'{value / limit:.3g}'):g}{letter}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def _duration(seconds: int) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:g} {name}"
    return f"{seconds} s"
