"""What runs in Ray's workers: three generators over the blocks of a shard, and what drives them.

Each yields a :class:`Step` per block, for the progress bar, and its result last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from ctrdist.data.manifest import SPLITS, DataFile
from ctrdist.errors import DataError, UserError
from preprocessing import split
from preprocessing.config import PreprocessConfig
from preprocessing.encode import arrow_schema, encode, schema_of
from preprocessing.fields import Fields, typed
from preprocessing.inputs import Shard
from preprocessing.joins import Side, attach
from preprocessing.output import Output, PartWriter
from preprocessing.progress import Progress
from preprocessing.reader import count_rows, read_blocks
from preprocessing.statistics import Counts, Encoding


@dataclass(frozen=True)
class Step:
    """A block is done."""

    rows: int
    bytes: int
    """Of the file as it is stored."""


@dataclass(frozen=True)
class Plan:
    """What all tasks of a run share."""

    config: PreprocessConfig
    sides: Sequence[Side]
    """The joined tables."""
    edges: tuple[int, int] = (0, 0)
    """First row of valid and of test, for a split by position."""


@dataclass(frozen=True)
class Part:
    """A file that was written."""

    split: str
    file: DataFile
    positives: int


def count(plan: Plan, shard: Shard) -> Iterator[Step | int]:
    """Counts the rows of a shard."""
    total = 0
    for rows, stored in count_rows(shard, plan.config):
        total += rows
        yield Step(rows, stored)
    yield total


def scan(plan: Plan, shard: Shard, first: int) -> Iterator[Step | Counts]:
    """Checks all rows of a shard and counts its training rows; `first` is its first row's place."""
    counts = Counts()
    for fields, chosen, stored in _blocks(plan, shard, first):
        counts.add(fields, chosen, plan.config.categorical)
        yield Step(len(chosen), stored)
    yield counts.compact()


def write(
    plan: Plan, encoding: Encoding, output: Output, shard: Shard, first: int, names: dict[str, str]
) -> Iterator[Step | list[Part]]:
    """Encodes a shard into one file per split that it has rows of; `names`: split → file."""
    target = arrow_schema(schema_of(plan.config, encoding))
    parts: dict[str, PartWriter] = {}
    with ExitStack() as stack:
        for name, path in names.items():
            parts[name] = stack.enter_context(output.part(path, target, plan.config.row_group_size))
        for fields, chosen, stored in _blocks(plan, shard, first):
            table = encode(fields, plan.config, encoding, target)
            for index in np.unique(chosen):
                if SPLITS[index] not in parts:
                    raise DataError(
                        f"{shard.name}: changed while it was read. Start again when it is complete."
                    )
                mask = chosen == index
                part = parts[SPLITS[index]]
                part.write(table if mask.all() else table.filter(pa.array(mask)))
                part.positives += int(fields.label[mask].sum())
            yield Step(len(chosen), stored)
    yield [Part(name, part.file, part.positives) for name, part in parts.items()]


def _blocks(plan: Plan, shard: Shard, first: int) -> Iterator[tuple[Fields, np.ndarray, int]]:
    """(fields, split of each row, bytes) of each block."""
    config = plan.config
    for block in read_blocks(shard, config):
        rows = block.table.num_rows
        if shard.split is not None:
            chosen = split.by_name(shard.split, rows)
        elif config.split.by == "position":
            chosen = split.by_position(first, rows, plan.edges)
        else:
            chosen = split.by_hash(block.table, config.split)
        yield typed(attach(block, list(plan.sides)), config), chosen, block.consumed
        first += rows


def run_all(
    task: Callable[..., Any], calls: Sequence[tuple[Any, ...]], progress: Progress, workers: int
) -> list[Any]:
    """Runs a generator of this module for each call, some at a time, in Ray's workers.

    Args:
        task: yields steps and its result last.
        calls: the arguments of each; object references are resolved.
        progress: is told of the steps.
        workers: how many at a time; 0: one per CPU.

    Returns:
        The results in the order of the calls.

    Raises:
        UserError: the first that a task raised; the others are stopped by then.
    """
    remote = ray.remote(num_cpus=1, num_returns="streaming")(task)
    limit = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    results: list[Any] = [None] * len(calls)
    running: dict[Any, int] = {}
    waiting = list(enumerate(calls))[::-1]
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                index, arguments = waiting.pop()
                running[remote.remote(*arguments)] = index
            ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
            for generator in ready:
                try:
                    value = ray.get(next(generator))
                except StopIteration:
                    del running[generator]
                    continue
                if isinstance(value, Step):
                    progress.advance(value.rows, value.bytes)
                else:
                    results[running[generator]] = value
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    finally:
        _stop(list(running))
    return results


def _stop(generators: list[Any]) -> None:
    """Ends tasks, and waits until they have: nothing is written after this."""
    for generator in generators:
        # Only once it runs: Ray (2.60) may abort the whole process, by a check of its own, where a
        # task is cancelled between being submitted and being sent to its worker.
        ray.wait([generator], timeout=30)
        ray.cancel(generator, force=True)
    for generator in generators:
        with suppress(StopIteration, ray.exceptions.RayError):
            while True:
                ray.get(next(generator), timeout=30)
