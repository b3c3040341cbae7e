"""JSON that every program can read: Python's own writes NaN and Infinity, which are not JSON."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def to_text(
    value: Any, non_finite: Callable[[float], str | None] = lambda _: None, **options: Any
) -> str:
    """The JSON text of a value.

    Args:
        value: nested mappings and lists of plain values; scalars of numpy and torch become numbers,
            and what JSON lacks becomes text.
        non_finite: what stands for nan, inf and -inf; null by default.
        options: of :func:`json.dumps`.
    """
    return json.dumps(_plain(value, non_finite), allow_nan=False, **options)


def _plain(value: Any, non_finite: Callable[[float], str | None]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item, non_finite) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, non_finite) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    try:
        number = float(value)  # Converts scalars of numpy and torch, too.
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else non_finite(number)
