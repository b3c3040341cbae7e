"""What a run says that could not go on through no fault of its input."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ctrdist.errors import DataError
from preprocessing.config.settings import PreprocessConfig

if TYPE_CHECKING:
    from preprocessing.runtime.task_runner import Runner

_REMEDIES = {
    errno.ENOSPC: "Free space there, or give --work a directory on another disk",
    errno.EDQUOT: "Free space there, or give --work a directory on another disk",
    errno.EACCES: "Give access to it",
    errno.EPERM: "Give access to it",
    errno.EROFS: "Make it writable",
}


def explain(error: Exception, config: PreprocessConfig, runner: Runner | None) -> DataError:
    """The message of an error of a disk or a store, with what is done and how to go on."""
    code = getattr(error, "errno", None)
    remedy = _REMEDIES.get(code if isinstance(code, int) else 0, "Mend it")
    name, told = getattr(error, "filename", None), getattr(error, "strerror", None)
    text = f"{f'{name}: ' if name else ''}{str(told or error).rstrip('.')}."
    return DataError(f"--output {config.output}: {text} {done(runner)}{remedy}; {GO_ON}")


GO_ON = "the same command goes on from there."


def done(runner: Runner | None) -> str:
    """What is done and what is not, as a sentence and a blank; empty where nothing was begun."""
    if runner is None or not runner.passed:
        return ""
    parts = [
        f"{title} is done" if n == total else f"{title} is done for {n:,} of {total:,} parts"
        for title, n, total in runner.passed
    ]
    return f"{', '.join(parts)}; what comes after is not. "
