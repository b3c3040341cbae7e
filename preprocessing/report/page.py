"""Renders report.html from report.json: one file without scripts that loads no other."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ctrdist.data.manifest import SPLITS
from preprocessing.report.measures import interval

_TEMPLATE = "page.html.jinja"
_TEXT = 120
"""Characters of a value that are shown."""


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
    clicks = sum(split["clicks"] for split in report["summary"]["splits"].values())
    kept = report["summary"]["rows_kept"]
    return environment.get_template(_TEMPLATE).render(
        report,
        click_rate=clicks / kept if kept else None,
        series=_series(report["series"]),
        columns=[_column(column) for column in report["columns"]],
    )


def percent(value: float | None) -> str:
    """A share in percent with two decimals, one from 10 % on."""
    if value is None:
        return "–"
    if not value:
        return "0 %"
    return f"{100 * value:.2f} %" if value < 0.1 else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """A number with separators of thousands where it is whole, otherwise with four digits."""
    if value is None:
        return "–"
    whole = value == round(value) and abs(value) < 1e15
    text = f"{value:,.0f}" if whole or 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return text.replace("-", "−")


def share(value: float | None) -> str:
    """A share in percent with one decimal; 0 and 100 % only where it is exactly that."""
    if not value:
        return "0"
    return "<0.1 %" if value < 0.001 else "99.9 %" if 0.999 < value < 1 else f"{100 * value:.1f} %"


def shown_text(value: str) -> str:
    """A value of the log, cut where it is long, with Python escapes for what cannot be printed."""
    value = "".join(c if c.isprintable() else repr(c)[1:-1] for c in value[: _TEXT + 1])
    return value if len(value) <= _TEXT else value[: _TEXT - 1] + "…"


def _column(column: dict[str, Any]) -> dict[str, Any]:
    view = {**column, "plot": None, "spark": []}
    if column["kind"] == "number" and column["histogram"]:
        view["plot"] = _histogram(column["histogram"])
        view["spark"] = _scaled(column["histogram"]["shares"][0])
    elif column["kind"] != "number" and column["top"]:
        view["spark"] = _scaled([one["share"].get("train", 0.0) for one in column["top"]])
        view["top"] = [_value(one, column) for one in column["top"]]
        view["largest"] = max(max(one["share"].values(), default=0) for one in column["top"])
    view["worst_psi"] = max((p["psi"] for p in column["psi"].values()), default=None)
    view["worst_unknown"] = max(column["unknown_rate"].values(), default=None)
    return view


def _series(series: dict[str, Any]) -> dict[str, Any] | None:
    """The 95 % interval of the click rate over position or time; None without rows."""
    rows, clicks, size = series["rows"], series["clicks"], len(series["rows"])
    if not rows:
        return None
    least = max(1, sum(rows) / size / 5)  # a rate of very few rows says nothing
    bounds = [interval(c, n) if n >= least else None for c, n in zip(clicks, rows, strict=True)]
    low = min(b[0] for b in bounds if b)
    high = max(b[1] for b in bounds if b)
    scale = 100 / (high - low)
    points = [
        {"split": split, "bottom": scale * (b[0] - low), "height": scale * (b[1] - b[0])}
        for split, b in zip(series["split"], [b or (low, low) for b in bounds], strict=True)
    ]
    ticks = [series["start"] + size * series["width"] * part // 4 for part in range(5)]
    over_time = series["over"] == "time"
    return {
        "over": series["over"],
        "points": points,
        "low": low,
        "high": high,
        "ticks": [
            {"text": _time(at) if over_time else number(at), "left": 25 * part}
            for part, at in enumerate(ticks)
        ],
        "step": f"{series['width']:,} {'seconds' if over_time else 'rows'}",
    }


def _time(seconds: int) -> str:
    return str(np.datetime64(min(seconds, 2**63 - 1), "s")).replace("T", " ")


def _histogram(histogram: dict[str, Any]) -> dict[str, Any]:
    """The distribution of a number in each split, and its click rate by value."""
    edges, rows, last = histogram["edges"], histogram["rows"], len(histogram["rows"])
    if all(edge % 1 == 0.5 for edge in edges):  # half-way between two integers
        edges = [*map(math.ceil, edges[:-1]), math.floor(edges[-1])]
    enough = max(50, sum(rows) / 2000)
    rates = zip(histogram["click_rate"], rows, strict=True)
    shown = [r if n >= enough and r is not None else 0.0 for r, n in rates]
    shares = histogram["shares"]
    largest = max(map(max, shares))
    return {
        "scale": histogram["scale"],
        "splits": [
            (name, _scaled(one, largest))
            for name, one in zip(SPLITS, shares, strict=True)
            if any(one)
        ],
        "largest": largest,
        "rates": _scaled(shown),
        "highest": max(shown),
        "ticks": [
            {"text": number(edges[i]), "left": 100 * i / last}
            for i in sorted({round(last * part / 4) for part in range(5)})
        ],
    }


def _scaled(heights: Sequence[float], largest: float | None = None) -> list[float]:
    """The heights as parts of the largest."""
    largest = largest or max(heights) or 1.0
    return [height / largest for height in heights]


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
