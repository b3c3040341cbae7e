"""The work directory of a run: files that one pass leaves for the next, and marks of done tasks.

Marks, and other messages between tasks and the driver, are dataclasses that JSON stores and
restores unchanged. They may hold numbers, texts, None, numpy arrays, lists, tuples, dicts with text
keys, and other dataclasses. Arrays are compressed.

A file is whole once it has its name. A task writes its files first and its mark last, so that an
interrupted run resumes by doing the tasks without a mark. docs/work_directory.md describes every
file.
"""

import base64
import hashlib
import json
import zlib
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from ctrdist.storage import Store

_PLAN, _MARKS = "plan.json", "done"
VERSION = 4
"""Version of the directory's files. A run starts anew in a directory of another version."""
T = TypeVar("T")


class WorkDir:
    """The work directory of one run. Can be sent to any process."""

    def __init__(self, url: str) -> None:
        """Does not touch the directory, local or s3://, which need not exist."""
        self.store = Store(url)

    def open(self, plan: dict[str, Any]) -> bool:
        """Prepares the directory for a plan, and removes what a run of another plan left.

        Returns:
            Whether a run of the same plan was here before.
        """
        text = json.dumps({"version": VERSION, **plan}, sort_keys=True)
        try:
            if self.store.get(_PLAN).decode() == text:
                return True
        except FileNotFoundError:
            pass
        self.store.remove("")
        self.store.put(_PLAN, text.encode())
        return False

    def marks(self) -> set[str]:
        """Names of the tasks that are done."""
        return {name[len(_MARKS) + 1 : -len(".json")] for name in self.store.names(_MARKS)}

    def mark(self, task: str, result: Any) -> None:
        """Marks a task as done, with its result, a message."""
        self.store.put(f"{_MARKS}/{task}.json", to_json(result))

    def result(self, task: str, kind: type[T]) -> T:
        """The result of a task that is done."""
        return from_json(kind, self.store.get(f"{_MARKS}/{task}.json"))

    def keep_only(self, stamp: str) -> None:
        """Removes the marks of tasks that were done for other input files."""
        for task in self.marks():
            if "@" in task and not task.endswith(f"@{stamp}"):
                self.store.remove(f"{_MARKS}/{task}.json")

    def remove(self) -> None:
        """Removes the directory."""
        self.store.remove("")


def digest(value: Any) -> str:
    """16 hexadecimal characters: a hash of a value that JSON can store."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def to_json(message: Any) -> bytes:
    """The JSON text of a message."""
    return json.dumps(message, default=_plain).encode()


def from_json(kind: type[T], raw: bytes) -> T:
    """The message of this class that :func:`to_json` wrote."""
    message: T = _restored(kind, json.loads(raw))
    return message


def _plain(value: Any) -> Any:
    """An array or a dataclass as what JSON knows."""
    if isinstance(value, np.ndarray):
        packed = base64.b64encode(zlib.compress(value.tobytes(), 6)).decode()
        return [value.dtype.str, value.shape, packed]
    return {f.name: getattr(value, f.name) for f in fields(value)}


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
