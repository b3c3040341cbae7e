"""What a run says that could not go on through no fault of its input."""

from __future__ import annotations

import errno

from ctrdist.errors import DataError
from preprocessing.config import PreprocessConfig
from preprocessing.executor import Runner

_REMEDIES = {
    errno.ENOSPC: "Free space there, or give --work a directory on another disk",
    errno.EDQUOT: "Free space there, or give --work a directory on another disk",
    errno.EACCES: "Give access to it",
    errno.EPERM: "Give access to it",
    errno.EROFS: "Make it writable",
}


def explain(error: OSError, config: PreprocessConfig, runner: Runner | None) -> DataError:
    """The message of an error of a disk or a store, with what is done and how to go on."""
    code = error.errno if isinstance(error.errno, int) else 0
    remedy = _REMEDIES.get(code, "Mend it")
    where = f"{error.filename}: " if error.filename else ""
    text = f"{where}{error.strerror or error}."
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
