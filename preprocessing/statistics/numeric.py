"""Statistics of the training rows' numbers, from which the numeric transforms are fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ctrdist.features.columns import ColumnConfig
from ctrdist.features.transforms import before_standardising
from preprocessing.config.settings import PreprocessConfig
from preprocessing.statistics.histogram import NumberSketch
from preprocessing.statistics.moments import Moments


class NumberStatistics:
    """What is known of the training rows' numbers; mergeable in the order of the log."""

    def __init__(self, config: PreprocessConfig) -> None:
        self._columns = config.measured
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
                self.moments[column.name] += Moments.of(before_standardising(values, column))

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


def _needs_sketch(column: ColumnConfig, config: PreprocessConfig) -> bool:
    kind = config.numeric_of(column)
    return (kind != "bucket" and column.transform == "min_max") or (
        kind != "number" and column.buckets == "quantile"
    )
