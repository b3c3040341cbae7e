"""Numeric columns: what is learned from the training rows, and what becomes of a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ctrdist.schema import FIRST_VALUE_ID
from preprocessing.config.settings import ColumnConfig, PreprocessConfig
from preprocessing.scan.scanned import measured
from preprocessing.statistics.histogram import NumberSketch
from preprocessing.statistics.moments import Moments


class NumberStatistics:
    """What is known of the training rows' numbers; mergeable in the order of the log."""

    def __init__(self, config: PreprocessConfig) -> None:
        self._columns = measured(config)
        self.moments = {
            c.name: Moments()
            for c in self._columns
            if config.numeric_of(c) != "bucket" and c.transform.endswith("standardise")
        }
        """By column that is standardised: of its values as they are standardised."""
        self.sketches = {c.name: NumberSketch() for c in self._columns if _needs_sketch(c, config)}
        """By column that is cut to [0, 1] or into quantiles: of its values as they are."""

    def add(self, numbers: Mapping[str, np.ndarray], train: np.ndarray | None) -> None:
        """Counts a block; `train` (n,) bool: which rows, None: all."""
        for column in self._columns:
            values = numbers[column.name]
            if train is not None:
                values = values[train]
            values = values[~np.isnan(values)]
            if column.name in self.sketches:
                self.sketches[column.name].add(values)
            if column.name in self.moments:
                self.moments[column.name] += Moments.of(_shaped(values, column))

    def merge(self, summary: Mapping[str, Any]) -> None:
        """Adds what :meth:`summary` told of later rows."""
        for name, values in summary["moments"].items():
            self.moments[name] += Moments(*values)
        for name, sketch in summary["sketches"].items():
            self.sketches[name].merge(NumberSketch.from_json(sketch))

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "moments": {n: [m.count, m.mean, m.squares] for n, m in self.moments.items()},
            "sketches": {n: s.to_json() for n, s in self.sketches.items()},
        }

    def learn(self) -> dict[str, dict[str, Any]]:
        """By column: mean and deviation, low and high, edges of the quantiles; for JSON."""
        learned: dict[str, dict[str, Any]] = {c.name: {} for c in self._columns}
        for name, moments in self.moments.items():
            learned[name] |= {"mean": moments.mean, "deviation": moments.deviation}
        for column in self._columns:
            sketch = self.sketches.get(column.name)
            if sketch is None:
                continue
            if column.transform == "min_max":
                empty = sketch.count == 0
                learned[column.name] |= {
                    "low": 0.0 if empty else sketch.least,
                    "high": 1.0 if empty else sketch.greatest,
                }
            if column.buckets == "quantile":
                inner = np.arange(1, column.num_quantiles) / column.num_quantiles
                edges = [] if sketch.count == 0 else np.unique(sketch.quantiles(inner)).tolist()
                learned[column.name]["edges"] = edges
        return {name: what for name, what in learned.items() if what}


def transformed(values: np.ndarray, column: ColumnConfig, learned: Mapping[str, Any]) -> np.ndarray:
    """(n,) float32: what a numeric column becomes; a missing value, NaN, becomes 0.

    Args:
        values: (n,) float64 as they are in the log.
        column: which transform.
        learned: of this column, from :meth:`NumberStatistics.learn`.
    """
    if column.transform == "min_max":
        low, high = learned["low"], learned["high"]
        values = np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0)
    elif column.transform != "raw":
        values = (_shaped(values, column) - learned["mean"]) / learned["deviation"]
    return np.nan_to_num(values, nan=0.0).astype(np.float32)


def quantile_ids(values: np.ndarray, learned: Mapping[str, Any]) -> np.ndarray:
    """(n,) int32: which part of the training rows' values each is in; missing is the last."""
    edges = np.asarray(learned["edges"])
    ids = np.searchsorted(edges, values, side="right")
    return np.where(np.isnan(values), len(edges) + 1, ids).astype(np.int32) + FIRST_VALUE_ID


def _shaped(values: np.ndarray, column: ColumnConfig) -> np.ndarray:
    if column.transform == "log_standardise":
        return np.sign(values) * np.log1p(np.abs(values))
    return values


def _needs_sketch(column: ColumnConfig, config: PreprocessConfig) -> bool:
    kind = config.numeric_of(column)
    return (kind != "bucket" and column.transform == "min_max") or (
        kind != "number" and column.buckets == "quantile"
    )
