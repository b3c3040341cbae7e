"""Byte ranges of files, and their compression."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, kw_only=True)
class ByteRange:
    """A range of a file's bytes, or the whole file."""

    url: str
    """Address at which any worker finds the file."""
    name: str
    """Name as the user gave it, for messages."""
    start: int
    """First byte. The lines of a text belong to the range in which they begin, as do the row groups
    of a Parquet file."""
    end: int
    """Byte after the last."""
    version: str = ""
    """Version of the file, which is another one after a change."""


def compression(path: str) -> str | None:
    """Arrow's name of the compression that the suffix names; None for none."""
    return _COMPRESSIONS.get(posixpath.splitext(path)[1])
