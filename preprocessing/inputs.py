"""Which raw files there are, and the shards in which they are read."""

from __future__ import annotations

import difflib
import os
import posixpath
import re
from dataclasses import dataclass
from itertools import pairwise

import fsspec

from ctrdist.data.manifest import SPLITS
from ctrdist.errors import DataError
from preprocessing.config import PreprocessConfig

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What one task reads: a file, or a range of an uncompressed text."""

    url: str
    """Where any worker finds it."""
    name: str
    """As the user gave it, for messages."""
    start: int
    """First byte. The lines that begin at or after it and before `end` belong to the shard."""
    end: int
    """Byte after the last."""
    split: str | None = None
    """The split of its rows, where whole files are assigned to splits."""


@dataclass(frozen=True)
class _File:
    url: str
    name: str
    size: int


def find_shards(config: PreprocessConfig) -> list[Shard]:
    """The shards of all inputs, in log order.

    Raises:
        DataError: an input does not exist, or there are not three where they are the splits.
    """
    if not config.input:
        raise DataError("no input: give --input one or more raw files, folders or globs.")
    by_file = config.split.by == "file"
    if by_file and len(config.input) != len(SPLITS):
        raise DataError(
            f"--input names {len(config.input)} paths, and `split: {{by: file}}` takes three: "
            "train, valid and test, in this order. Give three, or split by position or hash."
        )
    shards = []
    for index, path in enumerate(config.input):
        for file in _expand(path):
            split = SPLITS[index] if by_file else None
            for start, end in _ranges(file, config):
                shards.append(
                    Shard(url=file.url, name=file.name, start=start, end=end, split=split)
                )
    if not shards:
        raise DataError(f"{', '.join(config.input)}: no rows; all files are empty.")
    return shards


def find_beside(file: str, config: PreprocessConfig) -> tuple[str, str]:
    """URL and name of a joined file: a path or URL of its own, or beside the first input.

    Raises:
        DataError: it does not exist.
    """
    if os.path.isabs(file) or "://" in file:
        where = file
    else:
        first = config.input[0]
        fs, root = fsspec.core.url_to_fs(first)
        where = posixpath.join(first if fs.isdir(root) else posixpath.dirname(first), file)
    found = _expand(where)
    return found[0].url, found[0].name


def _expand(path: str) -> list[_File]:
    """Files behind a path, a folder or a glob; of the latter two in the order of their names."""
    try:
        fs, root = fsspec.core.url_to_fs(path)
        if any(c in path for c in "*?["):
            names = [name for name in fs.glob(root) if not fs.isdir(name)]
        elif fs.isdir(root):
            names = [f["name"] for f in fs.ls(root, detail=True) if f["type"] == "file"]
            names = [name for name in names if not posixpath.basename(name).startswith((".", "_"))]
        else:
            names = [root] if fs.exists(root) else []
        files = [
            _File(_url(fs, n), _shown(path, n), fs.size(n) or 0)
            for n in sorted(names, key=_natural)
        ]
    except DataError:
        raise
    except (
        Exception
    ) as error:  # each store has its own classes: no bucket, no credentials, no such protocol
        raise DataError(
            f"{path}: cannot be read ({error}). Check the path and the access to it."
        ) from error
    if not files:
        raise DataError(
            f"{path}: no such file.{_near(fs, root)} "
            "Give --input a file, a folder or a glob that exists."
        )
    return [file for file in files if file.size > 0]


def _ranges(file: _File, config: PreprocessConfig) -> list[tuple[int, int]]:
    if config.format.type == "parquet" or compression(file.url):
        return [(0, file.size)]
    count = -(-file.size // config.shard_bytes)
    edges = [file.size * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def compression(path: str) -> str | None:
    """Arrow's name of the compression that the suffix tells; None for none."""
    return COMPRESSIONS.get(posixpath.splitext(path)[1])


def _natural(path: str) -> list[tuple[int, str]]:
    """Sorts day_2 before day_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


def _url(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return path if "file" in fs.protocol else fs.unstrip_protocol(path)


def _shown(given: str, found: str) -> str:
    if "://" in given or os.path.isabs(given):
        return found if "://" not in given else given.split("://")[0] + "://" + found.lstrip("/")
    return os.path.relpath(found)


def _near(fs: fsspec.AbstractFileSystem, root: str) -> str:
    folder = posixpath.dirname(root)
    if not folder or not fs.isdir(folder):
        return f" The folder {folder} does not exist either." if folder else ""
    there = [posixpath.basename(name) for name in fs.ls(folder, detail=False)]
    close = difflib.get_close_matches(posixpath.basename(root), there, n=3, cutoff=0.5)
    return f" The folder has {', '.join(close)}." if close else ""
