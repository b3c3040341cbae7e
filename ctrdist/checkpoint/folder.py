"""The directory of a checkpoint, local or in an object store."""

import zlib
from collections.abc import Iterator, Mapping
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

    def get_checked(self, name: str, facts: Mapping[str, int]) -> bytes:
        """Reads a small file, and checks its "bytes" and "crc32" from the marker.

        Raises:
            DamagedCheckpointError: it is missing or altered.
        """
        try:
            data = self.get(name)
        except FileNotFoundError as error:
            raise self.damaged(name, "missing") from error
        if zlib.crc32(data) != facts["crc32"]:
            raise self.damaged(name, "does not match its checksum")
        return data

    def damaged(self, name: str, what: str) -> DamagedCheckpointError:
        """The error to raise for a file that is not what was written."""
        parent = self.url.rpartition("/")[0]
        return DamagedCheckpointError(
            f"{self}/{name}: {what}. The checkpoint is damaged; use an older one of {parent}."
        )
