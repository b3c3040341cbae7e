"""The work directory of a run: files that one pass leaves for the next, and marks of done tasks.

A file is whole once it has its name. A task writes its files first and its mark last, so that an
interrupted run resumes by doing the tasks without a mark. docs/work_directory.md describes every
file.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from ctrdist.storage import Store
from preprocessing.runtime.messages import from_json, to_json

_PLAN, _MARKS = "plan.json", "done"
VERSION = 2
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
            if "@" in task and not task.endswith(stamped("", stamp)):
                self.store.remove(f"{_MARKS}/{task}.json")

    def remove(self) -> None:
        """Removes the directory."""
        self.store.remove("")


def stamped(task: str, stamp: str) -> str:
    """The mark of a task whose result holds for these input files alone."""
    return f"{task}@{stamp}"


def digest(value: Any) -> str:
    """16 hexadecimal characters: a hash of a value that JSON can store."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
