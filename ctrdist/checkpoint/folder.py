"""The directory of a checkpoint, local or in an object store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ctrdist.errors import CheckpointError, DamagedCheckpointError
from ctrdist.storage import Store


class Folder(Store):
    """A store that raises CheckpointError where a disk or a store fails.

    A missing file stays FileNotFoundError, as its meaning depends on who reads it.
    """

    @contextmanager
    def _access(self) -> Iterator[None]:
        try:
            with super()._access():
                yield
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            kind = type(error.__cause__ or error).__name__
            raise CheckpointError(
                f"{self.url}: cannot be read or written ({kind}: {error}). Check the address, its "
                "permissions, free space and, for s3://, credentials and endpoint; then start the "
                "run again under its name."
            ) from error


def damaged(folder: Store, name: str, what: str) -> DamagedCheckpointError:
    """The error to raise for a file that is not what was written."""
    return DamagedCheckpointError(
        f"{folder}/{name}: {what}. The checkpoint is damaged; use an older one of {folder.parent}."
    )
