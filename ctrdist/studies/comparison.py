"""The table of a study: one row per variant, with differences from its reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ctrdist.studies.statistics import paired_difference, spread

METRICS = {"auc": "AUC", "logloss": "logloss", "gauc": "gAUC"}
"""Metrics of the test split in the table, and their titles."""
_SIGNIFICANT = 0.05
_BY_SEED = Mapping[int, Mapping[str, Any]]


def comparison_rows(
    results: Mapping[str, _BY_SEED], references: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Returns one row per variant, in the order of the results.

    These are variant → seed → results of the run. The references tell against which variant a
    variant's differences are taken.
    """
    rows = []
    for variant, by_seed in results.items():
        reference = references[variant]
        auc = _values(by_seed, "test", "auc")
        row: dict[str, Any] = {"variant": variant, "reference": reference, "seeds": sorted(by_seed)}
        for metric in METRICS:
            values = _values(by_seed, "test", metric)
            if values:
                row[metric] = spread(values)
        row["valid_auc"] = spread(_values(by_seed, "valid", "auc"))
        if variant != reference and reference in results:
            other = _values(results[reference], "test", "auc")
            row["auc_difference"] = paired_difference(auc, other)
        seconds = {seed: summary["train_seconds"] for seed, summary in by_seed.items()}
        row["train_seconds"] = spread(seconds)["mean"]
        rows.append(row)
    return rows


def comparison_cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the headings and the cells of the table.

    The column "against" names each row's reference; it exists only if there are several.
    """
    several = len({row["reference"] for row in rows}) > 1
    metrics = (f"test {metric}" for metric in METRICS.values())
    against = ["against"] if several else []
    headings = ["variant", "seeds", *metrics, "valid AUC", "Δ test AUC", *against, "p"]
    return headings, [_cells(row, several) for row in rows]


def markdown(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table as a Markdown page."""
    headings, cells = comparison_cells(rows)
    against = "" if "against" in headings else f" against {rows[0]['reference']}"
    note = "Mean ± standard deviation over seeds; Δ and p (paired t-test over common seeds)"
    return markdown_page(name, f"{note}{against}.", headings, cells)


def markdown_page(
    title: str, note: str, headings: Sequence[str], cells: Sequence[Sequence[str]]
) -> str:
    """Returns a Markdown page with a title, one paragraph and a table."""
    lines = [f"| {' | '.join(line)} |" for line in (headings, *cells)]
    lines.insert(1, "|" + "---|" * len(headings))
    return "\n".join([f"# {title}", "", note, "", *lines, ""])


def _values(by_seed: _BY_SEED, split: str, metric: str) -> dict[int, float]:
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
        *(_mean_and_sd(row.get(metric)) for metric in METRICS),
        _mean_and_sd(row["valid_auc"]),
        "reference" if is_reference else _mean_and_sd(difference, "+"),
        *(["–" if is_reference else row["reference"]] if several else []),
        _p(difference),
    ]


def _mean_and_sd(value: Mapping[str, float] | None, sign: str = "") -> str:
    if value is None or math.isnan(value["mean"]):
        return "–"
    sd = "" if math.isnan(value["sd"]) else f" ± {value['sd']:.5f}"
    return f"{value['mean']:{sign}.5f}{sd}"


def _p(difference: Mapping[str, float] | None) -> str:
    if difference is None or math.isnan(difference["p"]):
        return "–"
    mark = " *" if difference["p"] < _SIGNIFICANT else ""
    p = "< 0.001" if difference["p"] < 0.001 else f"{difference['p']:.3f}"
    return p + mark
