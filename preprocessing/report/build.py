"""Builds report.json from the profile of a data set."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ctrdist.data.manifest import SPLITS
from ctrdist.schema import FIRST_VALUE_ID, UNKNOWN_ID, CategoricalField
from preprocessing.report import measures
from preprocessing.report.measures import by_split, short
from preprocessing.report.time_warnings import time_warnings
from preprocessing.report.warnings import column_warnings, join_warnings, split_warnings
from preprocessing.statistics.profile import HEAD, Profile, Series

REPORT_VERSION = 1
TOP, TOP_WHEN_WIDE, WIDE = 10, 5, 200
"""Values shown of a column, and of one of more than WIDE columns."""
POINTS = 120
"""Upper bound of the points of the click rate over position or time."""
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)

TopValues = Callable[[str, int], list[str]]
"""Returns a field's first n values, or fewer, in the order of ids from 2 on; none for hashes."""


@dataclass(frozen=True, kw_only=True)
class Making:
    """The making of a data set, as far as its warnings depend on it."""

    split_by: str = "position"
    """split.by."""
    unit: str | None = None
    """Unit of the timestamp's integers; None without one."""
    joins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """See :func:`preprocessing.report.warnings.join_warnings`."""
    warnings: Sequence[dict[str, Any]] = ()
    """Warnings that the profile does not tell; those of a column name it."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Setting → rows that were left out by it."""
    negatives_kept: Sequence[float] = (1.0,) * len(SPLITS)
    """Share of each split's rows with label 0 that was drawn."""

    @property
    def cell_weights(self) -> np.ndarray | int:
        """(2 · splits,): what a row of each split and label stands for; 1 without a draw."""
        if all(share == 1 for share in self.negatives_kept):
            return 1
        return np.array([w for share in self.negatives_kept for w in (1 / share, 1.0)])


def build_report(
    profile: Profile,
    *,
    fingerprint: str,
    rows_read: int,
    quarantined: Mapping[str, int],
    top_values: TopValues,
    making: Making | None = None,
) -> dict[str, Any]:
    """The content of report.json, from which report.html is made.

    `rows_read` are the rows of the log, those that were left out included; `quarantined` has the
    number of these by reason. Advice depends on `making`.

    Returns:
        JSON's types: summary (for trackers; it has no values of the log), quarantine, series, and
        columns, those that need attention first.
    """
    making = making or Making()
    weights = making.cell_weights
    columns = [_number(name, profile, weights) for name in profile.schema.numeric]
    top = TOP_WHEN_WIDE if profile.schema.num_fields > WIDE else TOP
    columns += [_field(f, profile, top_values, top, weights) for f in profile.schema.categorical]
    splits, bad = _splits(profile), sum(quarantined.values())
    train_rows = splits[SPLITS[0]]["rows"]
    warnings = list(split_warnings(splits, rows_read, bad, making.negatives_kept))
    warnings += join_warnings(making.joins)
    if profile.series.time:
        column_name = profile.schema.timestamp or ""
        warnings += time_warnings(profile.series, column_name, making.unit)
    warnings += making.warnings
    warnings += _warn_of_columns(columns, making.split_by, train_rows)
    left_out = {name: rows for name, rows in making.left_out.items() if rows}
    columns.sort(key=lambda column: (-column["attention"], column["place"]))
    warnings.sort(key=lambda one: -one["weight"])
    return {
        "version": REPORT_VERSION,
        "summary": {
            "name": profile.schema.name,
            "fingerprint": fingerprint,
            "rows_read": rows_read,
            "rows_kept": int(profile.groups.sum()),
            "rows_quarantined": bad,
            **({"rows_left_out": left_out} if left_out else {}),
            "splits": splits,
            "warnings": warnings,
            "columns": {
                c["name"]: {
                    key: c[key] for key in ("kind", "null_rate", "unknown_rate", "psi", "auc")
                }
                for c in columns
            },
        },
        "quarantine": dict(sorted(quarantined.items(), key=lambda item: (-item[1], item[0]))),
        "series": _series(profile.series),
        "columns": columns,
    }


def _warn_of_columns(
    columns: list[dict[str, Any]], split_by: str, train_rows: int
) -> list[dict[str, Any]]:
    """Adds place, warnings and attention to each column; returns all their warnings."""
    found = []
    for place, column in enumerate(columns):
        column["place"] = place
        column["warnings"] = list(column_warnings(column, split_by, train_rows))
        column["attention"] = _attention(column)
        found += [{"column": column["name"], "place": place, **one} for one in column["warnings"]]
    return found


def _splits(profile: Profile) -> dict[str, dict[str, Any]]:
    found = {}
    for index, name in enumerate(SPLITS):
        misses, clicks = (int(n) for n in profile.groups[2 * index : 2 * index + 2])
        rows = misses + clicks
        rate = short(clicks / rows) if rows else None
        found[name] = {"rows": rows, "clicks": clicks, "click_rate": rate}
    return found


def _number(name: str, profile: Profile, weights: np.ndarray | int) -> dict[str, Any]:
    numbers = profile.numbers[name]
    rows = int(profile.groups.sum())
    total = numbers.counts.sum(axis=1)
    count = int(total.sum())
    found = measures.quantiles(numbers, total, QUANTILES)
    constant = count > 0 and numbers.least == numbers.greatest
    single = measures.single(numbers)
    return {
        "name": name,
        "kind": "number",
        "null_rate": _share(int(numbers.missing.sum()), rows),
        "unknown_rate": {},
        "distinct": len(numbers.bins),
        "at_least": not (constant or single.all()),
        "constant": constant and count == rows,
        "dominant": _share(int(total[single].max(initial=0)), rows),
        "psi": _drift(measures.psi_cells_of_numbers(numbers, weights)),
        "auc": _short(measures.area_of_numbers(numbers)),
        "least": short(numbers.least, 15) if count else None,
        "greatest": short(numbers.greatest, 15) if count else None,
        "mean": short(numbers.sum / count, 9) if count else None,
        "quantiles": {f"{q:g}": short(x, 9) for q, x in zip(QUANTILES, found, strict=True)}
        if count
        else {},
        "histogram": measures.histogram(numbers),
    }


def _field(
    field: CategoricalField,
    profile: Profile,
    top_values: TopValues,
    top: int,
    weights: np.ndarray | int,
) -> dict[str, Any]:
    table = profile.ids[field.name]
    splits = by_split(table)
    total = splits.sum(axis=0)
    rows = int(profile.groups.sum())
    shared = field.name in profile.hashed and field.vocabulary_size > HEAD
    beyond = splits[HEAD:].sum(axis=0)
    single = splits[:HEAD].sum(axis=1)
    return {
        "name": field.name,
        "kind": "values" if field.multi_valued else "value",
        "null_rate": _share(profile.missing[field.name], rows),
        "unknown_rate": {
            name: _share(int(splits[UNKNOWN_ID, i]), int(total[i]))
            for i, name in enumerate(SPLITS)
            if total[i]
        },
        "distinct": field.vocabulary_size - FIRST_VALUE_ID,
        "at_least": False,
        "hashed": field.name in profile.hashed,
        "constant": bool(np.count_nonzero(splits.any(axis=1)) == 1 and not beyond.any()),
        "dominant": _share(int(single.max()), int(total.sum())),
        "psi": _drift(measures.psi_cells_of_values(by_split(table * weights))),
        "auc": _short(measures.area_of_values(table)),
        "mean_length": short(total.sum() / max(1, rows)) if field.multi_valued else None,
        "top": [] if shared else _top(field, profile, top_values, top),
    }


def _top(
    field: CategoricalField, profile: Profile, top_values: TopValues, top: int
) -> list[dict[str, Any]]:
    """The most frequent ids of the training rows; unknown may be among them."""
    table = profile.ids[field.name][:HEAD]
    splits = by_split(table)
    total = by_split(profile.ids[field.name]).sum(axis=0)
    most = np.argsort(-splits[:, 0], kind="stable")[:top].tolist()
    order = [i for i in most if splits[i].any()]
    values = top_values(field.name, max([0, *(i - FIRST_VALUE_ID + 1 for i in order)]))
    found = []
    for i in order:
        clicks, rows = int(table[i, 1::2].sum()), int(table[i].sum())
        index = i - FIRST_VALUE_ID
        found.append(
            {
                "id": i,
                "value": values[index] if 0 <= index < len(values) else None,
                "rows": rows,
                "clicks": clicks,
                "share": {
                    name: _share(int(splits[i, s]), int(total[s]))
                    for s, name in enumerate(SPLITS)
                    if total[s]
                },
            }
        )
    return found


def _drift(cells: np.ndarray) -> dict[str, dict[str, float]]:
    """Split → PSI against training, and its expectation by chance alone."""
    found = {}
    for index, name in list(enumerate(SPLITS))[1:]:
        value = measures.psi(cells[:, 0], cells[:, index])
        if value is not None:
            found[name] = {"psi": short(value[0]), "chance": short(value[1])}
    return found


def _series(series: Series) -> dict[str, Any]:
    """The click rate over position or time, in at most POINTS steps."""
    step = max(1, math.ceil(len(series.counts) / POINTS))
    counts = np.pad(series.counts, ((0, -len(series.counts) % step), (0, 0)))
    counts = counts.reshape(-1, step, counts.shape[1]).sum(axis=1)
    splits = by_split(counts)
    rows = splits.sum(axis=1)
    main = splits.argmax(axis=1)
    clear = (rows > 0) & (splits.max(axis=1, initial=0) >= 0.9 * rows)
    return {
        "over": "time" if series.time else "position",
        "start": series.first * series.width,
        "width": series.width * step,
        "rows": rows.tolist(),
        "clicks": counts[:, 1::2].sum(axis=1).tolist(),
        "split": [SPLITS[i] if ok else None for i, ok in zip(main, clear, strict=True)],
    }


def _attention(column: dict[str, Any]) -> float:
    """A weight by which columns are sorted: warnings first, then drift, unknown values and AUC."""
    weight = sum(100 * one["weight"] for one in column["warnings"])
    drift = max([0.0, *(one["psi"] - one["chance"] for one in column["psi"].values())])
    unknown = max([0.0, *column["unknown_rate"].values()])
    return short(weight + drift + unknown + abs((column["auc"] or 0.5) - 0.5))


def _share(part: int, whole: int) -> float:
    return short(part / whole) if whole else 0.0


def _short(value: float | None) -> float | None:
    return None if value is None else short(value)
