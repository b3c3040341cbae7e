"""Finds the raw files, and cuts them into input splits."""

import difflib
import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from ctrdist.data.manifest import SPLITS
from ctrdist.errors import DataError
from ctrdist.storage import Store, find_files
from preprocessing.config.settings import INPUT_FORMATS, PreprocessConfig, SplitConfig

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""Hive's value of a partition whose column is null."""
_EXPANSION = 3
"""About how many bytes of text a byte of a compressed file stands for. Input splits are measured in
text, so that each takes about the same time and memory."""


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


@dataclass(frozen=True, kw_only=True)
class InputSplit:
    """The part of the log that one task reads."""

    ranges: tuple[ByteRange, ...]
    """In log order; at least one."""
    split: str | None = None
    """The split of its rows, where whole files are assigned to splits."""

    @property
    def bytes(self) -> int:
        """Bytes of its ranges, as they are stored."""
        return sum(one.end - one.start for one in self.ranges)

    @property
    def name(self) -> str:
        """A name for messages."""
        more = len(self.ranges) - 1
        return self.ranges[0].name + (f" and {more:,} more" if more else "")


def find_input_splits(config: PreprocessConfig) -> list[InputSplit]:
    """The input splits of all inputs in log order, which depend on files and config alone.

    Raises:
        DataError: an input does not exist, or files and splits do not fit together.
    """
    if not config.input:
        raise DataError("no input: give --input one or more raw files, folders or globs.")
    files = [_expand(path) for path in config.input]
    if config.split.by != "file":
        split_of: list[tuple[ByteRange, str | None]] = [(f, None) for f in chain(*files)]
    elif config.split.valid or config.split.test:
        split_of = _by_pattern([*chain(*files)], config.split)
    elif len(files) == len(SPLITS):
        split_of = [(f, name) for found, name in zip(files, SPLITS, strict=True) for f in found]
    else:
        raise DataError(
            f"--input names {len(config.input)} paths, and `split: {{by: file}}` takes three: "
            "train, valid and test, in this order. Give three, or name the files for validation "
            "and test by split.valid and split.test, or split by position or hash."
        )
    splits = _input_splits(((f, split) for f, split in split_of if f.end), config)
    if not splits:
        raise DataError(
            f"{', '.join(config.input)}: no rows; all files are empty. Give files with rows."
        )
    for one in chain.from_iterable(split.ranges for split in splits):
        partition_values(one, config)
    return splits


def partition_values(file: ByteRange, config: PreprocessConfig) -> dict[str, str | None]:
    """The values of the partition columns of a file, from NAME=VALUE in its path; None: missing.

    Raises:
        DataError: its path lacks one.
    """
    columns = [column for column in config.columns if column.source == "partition"]
    if not columns:
        return {}
    there = folder_values(file)
    lacking = [column.name for column in columns if column.name not in there]
    if lacking:
        raise DataError(
            f"{file.name}: no folder {lacking[0]}=… in its path, from which the column "
            f"{lacking[0]} takes its values (source: partition). Give --input files that lie in "
            "such folders, or correct `columns` in the data-set YAML."
        )
    missing = {c.name: {*c.missing_texts, *config.format.missing, NO_VALUE} for c in columns}
    return {n: None if there[n] in texts else there[n] for n, texts in missing.items()}


def folder_values(file: ByteRange) -> dict[str, str]:
    """The names and values of the folders of a file that are called NAME=VALUE."""
    folders = [part.partition("=") for part in file.url.split("/")[:-1]]
    return {unquote(name): unquote(value) for name, equals, value in folders if equals}


def find_input_files(paths: Sequence[str]) -> list[ByteRange]:
    """The files of some paths, folders or globs in log order; raises DataError where none is."""
    return [*chain.from_iterable(map(_expand, paths))]


def versions(splits: Sequence[InputSplit], config: PreprocessConfig) -> list[Any]:
    """Values that change when the input splits or their files do; without directories."""
    return [
        [
            *(posixpath.basename(one.name), one.start, one.end, one.version, split.split),
            *partition_values(one, config).values(),
        ]
        for split in splits
        for one in split.ranges
    ]


def find_beside(file: str, config: PreprocessConfig) -> ByteRange:
    """The whole file of a side table: a path or URL of its own, or a name beside the first input.

    Raises:
        DataError: it does not exist, or is empty.
    """
    if os.path.isabs(file) or "://" in file:
        where = file
    else:
        first = config.input[0]
        is_folder = Store(first).kind() == "directory"
        where = posixpath.join(first if is_folder else posixpath.dirname(first), file)
    found = _expand(where)[0]
    if not found.end:
        raise DataError(f"{found.name}: empty; it is joined to the log. Give a file with rows.")
    return found


def text_bytes(inputs: Sequence[InputSplit], config: PreprocessConfig) -> int:
    """Estimates the size of the inputs and side tables as plain text."""
    files = [one for split in inputs for one in split.ranges]
    files += [find_beside(join.file, config) for join in config.joins]
    return sum((one.end - one.start) * _expansion(one, config) for one in files)


def _expand(path: str) -> list[ByteRange]:
    """The files of a path, or of a folder or a glob in the order of their names.

    Folders are read with everything below them.
    """
    try:
        files = [
            ByteRange(
                url=found.url,
                name=_shown(path, found.path),
                start=0,
                end=found.size,
                version=found.version,
            )
            for found in sorted(find_files(path), key=lambda found: _natural(found.path))
        ]
        is_folder = not files and Store(path).kind() == "directory"
        hint = "" if files or is_folder else _near(path)
    except OSError as error:  # For instance no bucket, no credentials, no such protocol.
        raise DataError(
            f"{path}: cannot be read ({error}). Check the path and the access to it."
        ) from error
    if is_folder:
        raise DataError(
            f"{path}: the folder has no files; those whose names begin with . or _ do not count. "
            "Give --input a folder with files of the log."
        )
    if not files:
        raise DataError(
            f"{path}: no such file.{hint} Give --input a file, a folder or a glob that exists."
        )
    return files


def _by_pattern(
    files: Sequence[ByteRange], split: SplitConfig
) -> list[tuple[ByteRange, str | None]]:
    """Each file with the split whose pattern its name matches; those that match none train."""
    patterns = {"valid": split.valid, "test": split.test}
    used: set[tuple[str, str]] = set()
    result: list[tuple[ByteRange, str | None]] = []
    for file in files:
        path = PurePosixPath(file.name)
        hits = [(s, p) for s, given in patterns.items() for p in given if path.match(p)]
        used.update(hits)
        if len({s for s, _ in hits}) > 1:
            raise DataError(
                f"{file.name}: matches both split.valid and split.test. "
                "Write the patterns so that each file is in one split."
            )
        result.append((file, hits[0][0] if hits else "train"))
    names = [posixpath.basename(file.name) for file in files]
    shown = ", ".join(names if len(names) <= 6 else [*names[:3], "…", *names[-2:]])
    for name, given in patterns.items():
        for pattern in given:
            if (name, pattern) not in used:
                raise DataError(
                    f'split.{name}: "{pattern}" matches none of the {len(names):,} files '
                    f"({shown}). Correct the pattern, or --input."
                )
    if all(name != "train" for _, name in result):
        raise DataError(
            f"split.valid and split.test match all {len(names):,} files ({shown}), and none is "
            "left for training. Narrow the patterns, or give more files."
        )
    return result


def _input_splits(
    files: Iterable[tuple[ByteRange, str | None]], config: PreprocessConfig
) -> list[InputSplit]:
    """Cuts large files, and joins small ones that follow one another in a split."""
    found: list[InputSplit] = []
    ranges: list[ByteRange] = []
    filled, current = 0, None

    def close() -> None:
        if ranges:
            found.append(InputSplit(ranges=tuple(ranges), split=current))
            ranges.clear()

    for file, split in files:
        text = file.end * _expansion(file, config)
        if split != current or filled + text > config.shard_bytes:
            close()
            filled, current = 0, split
        edges = _edges(file, config)
        for start, end in pairwise(edges):
            ranges.append(replace(file, start=start, end=end))
            if len(edges) > 2:
                close()
        filled = filled + text if ranges else 0
    close()
    return found


def _edges(file: ByteRange, config: PreprocessConfig) -> list[int]:
    """Bytes at which a file is cut, its beginning and end included."""
    if INPUT_FORMATS[config.format.type].is_text and compression(file.url):
        return [0, file.end]  # a stream has one beginning
    count = -(-file.end * _expansion(file, config) // config.shard_bytes)
    return [file.end * i // count for i in range(count + 1)]


def _expansion(file: ByteRange, config: PreprocessConfig) -> int:
    return _EXPANSION if compression(file.url) else INPUT_FORMATS[config.format.type].expansion


def compression(path: str) -> str | None:
    """Arrow's name of the compression that the suffix names; None for none."""
    return _COMPRESSIONS.get(posixpath.splitext(path)[1])


def _natural(path: str) -> list[tuple[int, str]]:
    """A key that sorts day_2 before day_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


def _shown(given: str, found: str) -> str:
    if "://" in given or os.path.isabs(given):
        return found if "://" not in given else given.split("://")[0] + "://" + found.lstrip("/")
    return os.path.relpath(found)


def _near(path: str) -> str:
    """A hint at the names in the folder of a path that leads to no file."""
    folder = posixpath.dirname(path) or "."
    if folder.endswith(":"):  # The path is a bucket.
        return ""
    store = Store(folder)
    if store.kind() != "directory":
        return f" The folder {folder} does not exist either."
    there = [*store.files(), *store.folders()]
    close = difflib.get_close_matches(posixpath.basename(path), there, n=3, cutoff=0.5)
    return f" The folder has {', '.join(close)}." if close else ""
