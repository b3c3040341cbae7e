"""The vocabulary passes: merge the values of all shards, assign ids, write the vocabularies.

No process holds more than one group of hash buckets, so vocabularies may be of any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from ctrdist.features.columns import ColumnConfig, has_vocabulary
from ctrdist.storage import Store
from preprocessing.config.settings import PreprocessConfig
from preprocessing.runtime.task_runner import Call, TaskRunner
from preprocessing.scan.shard_values import ValuesIndex
from preprocessing.vocabulary.assign_ids import ColumnIds, ShardIds, assign_ids, write_shard_ids
from preprocessing.vocabulary.file import vocabulary_file
from preprocessing.vocabulary.hash_partition import Group, plan_groups
from preprocessing.vocabulary.merge import MergedGroup, Rule, merge
from preprocessing.vocabulary.parent import Parent, write_parent

MAX_BYTES = 256 * 2**20
"""Memory for the values of a group."""


@dataclass(frozen=True)
class Vocabularies:
    """The vocabularies of a data set."""

    sizes: dict[str, int]
    """Field → values with an id of their own."""
    sha256: dict[str, str]
    """Field → hash of its file."""
    shard_ids: list[ShardIds]
    """By group."""


def make_vocabularies(
    config: PreprocessConfig,
    shards: Sequence[ValuesIndex],
    parent: Parent | None,
    data: Store,
    work: Store,
    runner: TaskRunner,
) -> Vocabularies:
    """Makes and writes all vocabularies.

    Args:
        config: the data set.
        shards: their values with counts of training rows, in the order of the log.
        parent: whose ids are kept.
        data: the data set's directory.
        work: the work directory.
        runner: of this run.
    """
    rules = rules_of(config)
    parents = _read_parent(parent, work, runner)
    groups = plan_groups([*shards, *parents], list(rules), max_bytes=MAX_BYTES)
    merged = _merge(groups, shards, parents, rules, work, runner)
    columns = _assign_ids(merged, rules, data, work, runner)
    calls = [
        Call(
            runner.mark(f"ids-{k:05d}"),
            f"ids, part {k + 1} of {len(groups)}",
            (work, group, columns, rules, f"ids/{k:05d}"),
        )
        for k, group in enumerate(merged)
    ]
    return Vocabularies(
        {name: found.size for name, found in columns.items()},
        {name: found.sha256 for name, found in columns.items()},
        runner.run("writing ids", write_shard_ids, calls, ShardIds),
    )


def rules_of(config: PreprocessConfig) -> dict[str, Rule]:
    """The rule of each field with a vocabulary; raises ConfigError where settings conflict."""
    rules = {c.name: Rule.of(c, config) for c in config.categorical if has_vocabulary(c)}
    every = ColumnConfig(name="", min_count=1)  # all hours and weekdays are kept, even rare ones
    return rules | {name: Rule.of(every, config) for name in config.derived}


def _read_parent(parent: Parent | None, work: Store, runner: TaskRunner) -> list[ValuesIndex]:
    """The parent's vocabularies as files of values."""
    if parent is None:
        return []
    found = runner.run(
        "reading the parent",
        write_parent,
        [
            Call(
                f"parent-{k:05d}",
                f"the parent's vocabulary of {name}",
                (work, f"parent/{k:05d}", parent.store, name),
            )
            for k, name in enumerate(parent.fields)
        ],
        list[ValuesIndex],
    )
    return [index for indices in found for index in indices]


def _merge(
    groups: Sequence[Group],
    shards: Sequence[ValuesIndex],
    parents: Sequence[ValuesIndex],
    rules: Mapping[str, Rule],
    work: Store,
    runner: TaskRunner,
) -> list[MergedGroup]:
    shared = ray.put(shards)
    calls = [
        Call(
            runner.mark(f"merge-{k:05d}"),
            f"vocabularies, part {k + 1} of {len(groups)}",
            (work, group, shared, rules, f"merge/{k:05d}", parents),
        )
        for k, group in enumerate(groups)
    ]
    return runner.run("merging vocabularies", merge, calls, MergedGroup)


def _assign_ids(
    merged: Sequence[MergedGroup],
    rules: Mapping[str, Rule],
    data: Store,
    work: Store,
    runner: TaskRunner,
) -> dict[str, ColumnIds]:
    """The ids of each column; writes its vocabulary."""
    calls = []
    for k, (name, rule) in enumerate(rules.items()):
        mine = [group for group in merged if any(part.column == name for part in group.parts)]
        arguments = (work, name, mine, rule.max_size, data, vocabulary_file(name))
        mark = runner.mark(f"assign-{k:05d}")
        calls.append(Call(mark, f"vocabulary of {name}", (*arguments, f"assign/{k:05d}")))
    found = runner.run("assigning ids", assign_ids, calls, ColumnIds)
    return {ids.column: ids for ids in found}
