"""What passes between the passes of a run, and which parts of it are done.

A directory of files, each whole once it has its name, and of marks: a task leaves its files first
and its mark last. A run that was cut off anywhere goes on by doing what has no mark.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ctrdist.storage import Store

_PLAN, _MARKS = "plan.json", "done"
VERSION = 1
"""Of the files in the directory: another version's are not gone on with."""


class Work:
    """The work directory of one run. Can be sent to any process."""

    def __init__(self, url: str) -> None:
        """`url`: local or s3://; it need not exist."""
        self.store = Store(url)

    def open(self, plan: dict[str, Any]) -> bool:
        """Makes the directory that of a plan; whether a run of the same plan was here before.

        What a run of another plan left is removed.
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

    def mark(self, task: str, summary: dict[str, Any]) -> None:
        """Says that a task is done, and what came of it."""
        self.store.put(f"{_MARKS}/{task}.json", json.dumps(summary).encode())

    def summary(self, task: str) -> dict[str, Any]:
        """What came of a task that is done."""
        loaded: dict[str, Any] = json.loads(self.store.get(f"{_MARKS}/{task}.json"))
        return loaded

    def keep_only(self, stamp: str) -> None:
        """Takes away the marks of tasks that were done for other files: theirs are overwritten."""
        for task in self.marks():
            if "@" in task and not task.endswith(stamped("", stamp)):
                self.store.remove(f"{_MARKS}/{task}.json")

    def remove(self) -> None:
        """Removes the directory."""
        self.store.remove("")


def stamped(task: str, stamp: str) -> str:
    """The mark of a task whose work holds for these files alone."""
    return f"{task}@{stamp}"


def digest(value: Any) -> str:
    """16 hexadecimal characters that stand for a value that JSON can write."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
