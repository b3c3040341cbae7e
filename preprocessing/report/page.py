"""report.html from report.json: one file that asks for nothing else, without scripts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from preprocessing.report import paths
from preprocessing.report.measures import interval

_TEMPLATE = "page.html.jinja"
_TEXT = 120
"""Characters shown of a value."""
_WARNINGS = 20
"""So many are shown at once; the others are folded."""


def render(report: dict[str, Any]) -> str:
    """The page of a report, see :func:`preprocessing.report.build.build_report`.

    All texts of the log are escaped. A thousand columns make some 4 MB.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        number=number, percent=percent, share=share, text=shown_text, count="{:,}".format
    )
    summary = report["summary"]
    kept = summary["rows_kept"]
    clicks = sum(s["clicks"] for s in summary["splits"].values())
    return environment.get_template(_TEMPLATE).render(
        summary=summary,
        quarantine=report["quarantine"],
        click_rate=clicks / kept if kept else None,
        splits=[
            {"name": name, **s, "part": s["rows"] / max(1, kept), "error": _error(s)}
            for name, s in summary["splits"].items()
        ],
        warnings=summary["warnings"][:_WARNINGS],
        more_warnings=summary["warnings"][_WARNINGS:],
        series=_series(report["series"]),
        columns=[_column(column) for column in report["columns"]],
    )


def number(value: float | None) -> str:
    """With thousands where it is whole, otherwise four digits."""
    if value is None:
        return "–"
    if value == round(value) and abs(value) < 1e15:
        return f"{round(value):,}".replace("-", "−")
    if 1e4 <= abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def percent(value: float | None) -> str:
    """As a table wants it: two digits behind the point, fewer above 10 %."""
    if value is None:
        return "–"
    if not value:
        return "0 %"
    return f"{100 * value:.2f} %" if value < 0.1 else f"{100 * value:.1f} %"


def share(value: float | None) -> str:
    """A share that is mostly nothing: short, and 0 only where it is."""
    if not value:
        return "0"
    return "<0.1 %" if value < 0.001 else "99.9 %" if 0.999 < value < 1 else f"{100 * value:.1f} %"


def shown_text(value: str) -> str:
    """A value of the log, cut where it is long; what cannot be printed as Python escapes."""
    value = "".join(c if c.isprintable() else repr(c)[1:-1] for c in value[: _TEXT + 1])
    return value if len(value) <= _TEXT else value[: _TEXT - 1] + "…"


def _error(split: dict[str, Any]) -> float | None:
    rate, rows = split["click_rate"], split["rows"]
    return math.sqrt(rate * (1 - rate) / rows) if rows else None


def _series(series: dict[str, Any]) -> dict[str, Any] | None:
    rows, clicks = series["rows"], series["clicks"]
    if not rows:
        return None
    least = max(1, sum(rows) / len(rows) / 5)  # a rate of very few rows says nothing
    bounds = [interval(c, n) if n >= least else None for c, n in zip(clicks, rows, strict=True)]
    there = [b for b in bounds if b]
    low, high = _round_range(min(b[0] for b in there), max(b[1] for b in there))
    size = len(rows)

    def scaled(values: Sequence[float | None]) -> list[tuple[float, float] | None]:
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
        "line": paths.line(scaled(rates)),
        "band": paths.band(
            scaled([b and b[0] for b in bounds]), scaled([b and b[1] for b in bounds])
        ),
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


def _column(column: dict[str, Any]) -> dict[str, Any]:
    view = {**column, "plot": None, "spark": ""}
    if column["kind"] == "number":
        if column["histogram"]:
            view["plot"] = _plot(column["histogram"])
            view["spark"] = view["plot"]["spark"]
    elif column["top"]:
        shares = [one["share"].get("train", 0.0) for one in column["top"]]
        edges = [i / 10 for i in range(len(shares) + 1)]
        largest = max(shares) or 1.0
        view["spark"] = paths.bars(edges, [s / largest for s in shares], gap=0.3)
        view["top"] = [_value(one, column) for one in column["top"]]
        view["largest"] = max(max(one["share"].values(), default=0) for one in column["top"])
    view["worst_psi"] = max((p["psi"] for p in column["psi"].values()), default=None)
    view["worst_unknown"] = max(column["unknown_rate"].values(), default=None)
    return view


def _value(one: dict[str, Any], column: dict[str, Any]) -> dict[str, Any]:
    low, high = interval(one["clicks"], one["rows"])
    kind = {0: "padding", 1: "unknown"}.get(one["id"])
    if kind is None and one["value"] is None:
        kind = f"id {one['id']}"
    if kind is None and one["value"] == "":
        kind = "missing"
    return {
        **one,
        "note": kind,
        "rate": one["clicks"] / one["rows"] if one["rows"] else None,
        "half": (high - low) / 2,
    }


def _plot(histogram: dict[str, Any]) -> dict[str, Any]:
    edges = histogram["edges"]
    log = histogram["scale"] == "symlog"
    grid = [math.copysign(math.log1p(abs(e)), e) if log else e for e in edges]
    span = grid[-1] - grid[0] or 1.0
    grid = [(g - grid[0]) / span for g in grid]
    widths = [b - a for a, b in itertools.pairwise(grid)]
    level = max(widths) < 1.01 * min(widths)
    # Bars of integers on a logarithmic axis differ in width; what counts is then their area.
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
        "bars": paths.bars(grid, [s / largest for s in train]),
        "others": [
            {"name": name, "steps": paths.steps(grid, [s / largest for s in shares])}
            for name, shares in zip(("valid", "test"), others, strict=True)
            if any(shares)
        ],
        "spark": paths.bars(grid, [s / (max(train, default=0) or 1) for s in train], gap=0),
        "largest": largest if level else None,
        "rates": paths.steps(grid, [None if r is None else r / highest for r in rates]),
        "highest": highest,
        "ticks": ticks,
    }


def _round_range(low: float, high: float) -> tuple[float, float]:
    """The next round bounds around a range of click rates."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-6)))
    step = step / 2 if (high - low) / step < 4 else step
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return max(0.0, low), min(1.0, high) if high > low else low + step


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
