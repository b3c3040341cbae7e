"""Pure functions of one column: a number's transform and buckets, a time's parts."""

# n values

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from ctrdist.features.columns import ColumnConfig
from ctrdist.schema import FIRST_VALUE_ID

Fitted = Mapping[str, Any]
"""Parameters of one numeric column: mean and deviation, low and high, edges of its quantiles."""
BOUND = 1e3
"""Standardised values are cut to ±BOUND deviations, so that no outlier of a later day reaches a
tower as it is; those of real logs lie far within."""
_DAY = 86_400
_THURSDAY = 3
"""Weekday of 1 January 1970; Monday is 0."""
_KNOWN_BUCKETS = 2**14
_LEAST = -(2.0**62)
"""Lower numbers have its bucket: buckets are int64."""


def before_standardising(values: np.ndarray, column: ColumnConfig) -> np.ndarray:
    """(n,) float64: the values whose mean and deviation are fitted."""
    if column.transform == "log_standardise":
        return np.sign(values) * np.log1p(np.abs(values))
    return values


def transformed(values: np.ndarray, column: ColumnConfig, fitted: Fitted) -> np.ndarray:
    """Applies a numeric column's transform to (n,) float64, NaN where missing.

    Gives (n,) float32; a missing value becomes 0.
    """
    if column.transform == "min_max":
        low, high = fitted["low"], fitted["high"]
        values = np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0)
    elif column.transform != "raw":
        shaped = before_standardising(values, column)
        values = np.clip((shaped - fitted["mean"]) / fitted["deviation"], -BOUND, BOUND)
    return np.nan_to_num(values, nan=0.0).astype(np.float32)


def quantile_ids(values: np.ndarray, fitted: Fitted) -> np.ndarray:
    """(n,) int32: id of the quantile range of each number; a missing one, NaN, has the last id."""
    edges = np.asarray(fitted["edges"])
    ids = np.searchsorted(edges, values, side="right")
    return np.where(np.isnan(values), len(edges) + 1, ids).astype(np.int32) + FIRST_VALUE_ID


def bucket_texts(values: np.ndarray) -> pa.Array:
    """(n,) string: the text of each number's bucket, see :func:`bucket_numbers`; null for NaN."""
    return pa.array(bucket_numbers(values), mask=np.isnan(values)).cast(pa.string())


def bucket_numbers(values: np.ndarray) -> np.ndarray:
    """(n,) int64: floor(ln(x)²) for x > 2, else x without its fraction; 0 for NaN."""
    values = np.where(np.isnan(values), 0.0, values)
    known = _known_buckets()
    whole = np.clip(values, 0, len(known) - 1).astype(np.int64)
    out = known[whole]
    others = np.flatnonzero(whole != values)  # most numbers of logs are small and whole
    out[others] = _bucket_formula(values[others])
    return out


@cache
def _known_buckets() -> np.ndarray:
    """The buckets of 0, 1, 2, …; a lookup takes a quarter of the formula's time."""
    return _bucket_formula(np.arange(float(_KNOWN_BUCKETS)))


def _bucket_formula(values: np.ndarray) -> np.ndarray:
    out, large = np.maximum(values, _LEAST), values > 2
    out[large] = np.floor(np.log(values[large]) ** 2)
    return out.astype(np.int64)


def _weekday(seconds: np.ndarray) -> np.ndarray:
    return (seconds // _DAY + _THURSDAY) % 7


TIME_PARTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hour": lambda seconds: seconds % _DAY // 3600,
    "weekday": _weekday,
    "weekend": lambda seconds: (_weekday(seconds) >= 5).astype(np.int64),
}
"""Name in ColumnConfig.derive → function of (n,) int64 seconds since 1970: (n,) int64 of hours 0 to
23, of weekdays from Monday, 0, to 6, or of 0 and 1, in UTC."""
