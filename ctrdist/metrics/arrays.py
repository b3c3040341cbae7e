"""What the metrics accept: numpy arrays and torch tensors of one dimension."""

# N rows

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctrdist.errors import DataError

Values = NDArray[Any] | Tensor
"""(N,) numbers: a numpy array, or a tensor of any device."""
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def as_floats(values: Values) -> Floats:
    """(N,) float64. Exact for narrower floats, so that equal values stay equal."""
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    floats = np.asarray(values, dtype=np.float64)
    assert floats.ndim == 1, f"want one dimension, got shape {floats.shape}"
    return floats


def as_integers(values: Values) -> Integers:
    """(N,) int64."""
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.int64).numpy()
    integers = np.asarray(values)
    assert integers.ndim == 1, f"want one dimension, got shape {integers.shape}"
    assert integers.dtype.kind in "iu", f"want integers, got {integers.dtype}"
    return integers.astype(np.int64, copy=False)


def as_labels(values: Values, rows: int) -> Integers:
    """(N,) int64 of zeros and ones.

    Args:
        values: labels of any number type.
        rows: N that goes with them.

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
