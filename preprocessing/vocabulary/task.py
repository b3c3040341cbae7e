"""The vocabulary passes: merge the values of all shards, assign ids, write the vocabularies.

No process holds more than one group of hash buckets, so vocabularies may be of any size.
"""

import itertools
from collections.abc import Sequence

from ctrdist.data.counts import vocabulary_file
from ctrdist.features.columns import ColumnConfig, has_vocabulary
from ctrdist.storage import Store
from preprocessing.config.settings import PreprocessConfig
from preprocessing.runtime.task_runner import Call, TaskRunner
from preprocessing.scan.shard_values import ValuesIndex
from preprocessing.vocabulary.assign_ids import ColumnIds, ShardIds, assign_ids, write_shard_ids
from preprocessing.vocabulary.hash_partition import plan_groups
from preprocessing.vocabulary.merge import MergedGroup, Rule, merge
from preprocessing.vocabulary.parent import Parent, write_parent

MAX_BYTES = 256 * 2**20
"""Memory for the values of a group."""


def make_vocabularies(
    config: PreprocessConfig,
    shards: Sequence[ValuesIndex],
    parent: Parent | None,
    data: Store,
    work: Store,
    runner: TaskRunner,
) -> tuple[dict[str, ColumnIds], list[ShardIds]]:
    """Makes all vocabularies and writes them to the data set; returns them by field and by group.

    `shards` are the values with counts of training rows, in the order of the log; the ids of a
    `parent` are kept.
    """
    rules = rules_of(config)
    parents: list[ValuesIndex] = []
    if parent is not None:
        calls = [
            Call(
                f"parent-{k:05d}",
                f"the parent's vocabulary of {name}",
                (work, f"parent/{k:05d}", parent.store, name),
            )
            for k, name in enumerate(parent.fields)
        ]
        copied = runner.run("reading the parent", write_parent, calls, list[ValuesIndex])
        parents = list(itertools.chain(*copied))
    groups = plan_groups([*shards, *parents], list(rules), max_bytes=MAX_BYTES)
    shared = runner.pool.share(shards)
    calls = []
    for k, group in enumerate(groups):
        part, out = f"vocabularies, part {k + 1} of {len(groups)}", f"merge/{k:05d}"
        calls.append(runner.call(f"merge-{k:05d}", part, work, group, shared, rules, out, parents))
    merged = runner.run("merging vocabularies", merge, calls, MergedGroup)
    calls = []
    for k, (name, rule) in enumerate(rules.items()):
        mine = [group for group in merged if any(part.column == name for part in group.parts)]
        arguments = (work, name, mine, rule.max_size, data, vocabulary_file(name))
        out, title = f"assign/{k:05d}", f"vocabulary of {name}"
        calls.append(runner.call(f"assign-{k:05d}", title, *arguments, out))
    assigned = runner.run("assigning ids", assign_ids, calls, ColumnIds)
    columns = {ids.column: ids for ids in assigned}
    calls = []
    for k, found in enumerate(merged):
        part = f"ids, part {k + 1} of {len(groups)}"
        calls.append(runner.call(f"ids-{k:05d}", part, work, found, columns, rules, f"ids/{k:05d}"))
    return columns, runner.run("writing ids", write_shard_ids, calls, ShardIds)


def rules_of(config: PreprocessConfig) -> dict[str, Rule]:
    """The rule of each field with a vocabulary; raises ConfigError where settings conflict."""
    rules = {c.name: Rule.of(c, config) for c in config.categorical if has_vocabulary(c)}
    every = ColumnConfig(name="", min_count=1)  # all hours and weekdays are kept, even rare ones
    return rules | {name: Rule.of(every, config) for name in config.derived}
