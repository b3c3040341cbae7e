"""Inputs of the metrics: numpy arrays and torch tensors of one dimension. Imports no torch."""

# N rows

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctrdist.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Values: TypeAlias = "NDArray[Any] | Tensor"
"""(N,) numbers: a numpy array, or a tensor on any device."""
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def as_floats(values: Values) -> Floats:
    """Returns (N,) float64. The conversion is exact for narrower floats, so ties stay ties."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    floats = np.asarray(values, dtype=np.float64)
    assert floats.ndim == 1, f"want one dimension, got shape {floats.shape}"
    return floats


def as_integers(values: Values) -> Integers:
    """Returns (N,) int64."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().long().numpy()
    integers = np.asarray(values)
    assert integers.ndim == 1, f"want one dimension, got shape {integers.shape}"
    assert integers.dtype.kind in "iu", f"want integers, got {integers.dtype}"
    return integers.astype(np.int64, copy=False)


def as_labels(values: Values, rows: int) -> Integers:
    """Returns (N,) int64 of zeros and ones.

    Args:
        values: labels of any number type.
        rows: number of predictions that they belong to.

    Raises:
        DataError: a label is neither 0 nor 1.
    """
    floats = as_floats(values)
    assert len(floats) == rows, f"{len(floats)} labels for {rows} predictions"
    labels = floats == 1.0
    wrong = ~labels & (floats != 0.0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"row {row} of the evaluated rows: label {floats[row]:g}, allowed are 0 and 1. "
            "Correct the label's column or its threshold in the data-set YAML and preprocess again."
        )
    return labels.astype(np.int64)


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)
