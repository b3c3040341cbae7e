"""Messages of runs that a disk or an object store stopped."""

import errno

from ctrdist.errors import DataError

_REMEDIES = {
    errno.ENOSPC: "Free space there, or give --work a directory on another disk",
    errno.EDQUOT: "Free space there, or give --work a directory on another disk",
    errno.EACCES: "Give access to it",
    errno.EPERM: "Give access to it",
    errno.EROFS: "Make it writable",
}
RESUME = "run the same command again to resume."
"""The end of every message about an interrupted run."""


def storage_failure(error: Exception, output: str, done: str) -> DataError:
    """The user's message for an error of a disk or an object store; `done` says what is done."""
    code = getattr(error, "errno", None)
    remedy = _REMEDIES.get(code if isinstance(code, int) else 0, "Remove the cause")
    name, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
    text = f"{f'{name}: ' if name else ''}{str(reason or error).rstrip('.')}."
    return DataError(f"--output {output}: {text} {done}{remedy}; {RESUME}")
