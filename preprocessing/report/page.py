"""Renders report.html from report.json: one file without scripts that loads no other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2

from preprocessing.report.measures import interval
from preprocessing.report.plots import bars, histogram_plot, number, series_plot

_TEMPLATE = "page.html.jinja"
_TEXT = 120
"""Characters of a value that are shown."""
_WARNINGS = 20
"""Warnings shown at once; the others are folded."""


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
        series=series_plot(report["series"]),
        columns=[_column(column) for column in report["columns"]],
    )


def percent(value: float | None) -> str:
    """A share in percent with two decimals, one from 10 % on."""
    if value is None:
        return "–"
    if not value:
        return "0 %"
    return f"{100 * value:.2f} %" if value < 0.1 else f"{100 * value:.1f} %"


def share(value: float | None) -> str:
    """A share in percent with one decimal; 0 and 100 % only where it is exactly that."""
    if not value:
        return "0"
    return "<0.1 %" if value < 0.001 else "99.9 %" if 0.999 < value < 1 else f"{100 * value:.1f} %"


def shown_text(value: str) -> str:
    """A value of the log, cut where it is long, with Python escapes for what cannot be printed."""
    value = "".join(c if c.isprintable() else repr(c)[1:-1] for c in value[: _TEXT + 1])
    return value if len(value) <= _TEXT else value[: _TEXT - 1] + "…"


def _error(split: dict[str, Any]) -> float | None:
    rate, rows = split["click_rate"], split["rows"]
    return math.sqrt(rate * (1 - rate) / rows) if rows else None


def _column(column: dict[str, Any]) -> dict[str, Any]:
    view = {**column, "plot": None, "spark": ""}
    if column["kind"] == "number":
        if column["histogram"]:
            view["plot"] = histogram_plot(column["histogram"])
            view["spark"] = view["plot"]["spark"]
    elif column["top"]:
        shares = [one["share"].get("train", 0.0) for one in column["top"]]
        edges = [i / 10 for i in range(len(shares) + 1)]
        largest = max(shares) or 1.0
        view["spark"] = bars(edges, [s / largest for s in shares], gap=0.3)
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
