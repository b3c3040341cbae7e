"""Messages between tasks and the driver: dataclasses that JSON stores and restores unchanged.

A message may hold numbers, texts, None, numpy arrays, lists, tuples, dicts with text keys, and
other dataclasses. Arrays are compressed.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

T = TypeVar("T")


def to_json(message: Any) -> bytes:
    """The JSON text of a message."""
    return json.dumps(_plain(message)).encode()


def from_json(kind: type[T], raw: bytes) -> T:
    """The message of this class that :func:`to_json` wrote."""
    message: T = _restored(kind, json.loads(raw))
    return message


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray):
        packed = base64.b64encode(zlib.compress(value.tobytes(), 6)).decode()
        return [value.dtype.str, value.shape, packed]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def _restored(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _restored(hints[name], one) for name, one in value.items()})  # type: ignore[operator]
    if kind is np.ndarray:
        dtype, shape, packed = value
        flat = np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype)
        return flat.reshape(shape).copy()
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _restored(next(one for one in inner if one is not NoneType), value)
    if origin is list:
        return [_restored(inner[0], one) for one in value]
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is ... else inner
        return tuple(_restored(k, one) for k, one in zip(kinds, value, strict=True))
    if origin is dict:
        return {key: _restored(inner[1], one) for key, one in value.items()}
    return value
