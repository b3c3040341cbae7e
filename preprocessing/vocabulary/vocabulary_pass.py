"""The passes that make the vocabularies, in groups that fit one process each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray

from ctrdist.features.columns import ColumnConfig, has_vocabulary
from ctrdist.native.dictionary import hash_strings
from preprocessing.config.settings import PreprocessConfig
from preprocessing.runtime.task_runner import Runner
from preprocessing.runtime.work_dir import stamped
from preprocessing.scan import task as tasks
from preprocessing.scan.task import Plan, Summary
from preprocessing.vocabulary.assign_ids import MergeSummary, NumberSummary, number
from preprocessing.vocabulary.parent import Parent
from preprocessing.vocabulary.shard_values import ValuesIndex, write_parent
from preprocessing.vocabulary.vocabularies import AssignSummary, Rule, plan_groups
from preprocessing.write.output_dir import VOCABULARY, Output

MAX_BYTES = 256 * 2**20
"""Memory for the values of a group."""


@dataclass(frozen=True)
class Vocabularies:
    """What came of the passes."""

    sizes: dict[str, int]
    """Field → values with an id of their own."""
    sha256: dict[str, str]
    """Field → of its file."""
    assigned: list[AssignSummary]


def run(
    plan: Plan,
    shared: Any,
    sections: Sequence[Summary],
    parent: Parent | None,
    runner: Runner,
    output: Output,
) -> Vocabularies:
    """Makes and writes all vocabularies.

    Args:
        plan: what all tasks share.
        shared: its reference.
        sections: in the order of the log, with their counts.
        parent: whose ids are kept.
        runner: of this run.
        output: the data set.
    """
    config = plan.config
    rules = rules_of(config)
    parents = _parents(shared, parent, runner)
    indices = [ValuesIndex(**section["values"]) for section in sections]
    groups = plan_groups([*indices, *parents], list(rules), max_bytes=MAX_BYTES)
    shards = ray.put(indices)
    marks = [f"{index:05d}" for index in range(len(groups))]
    merged = [
        MergeSummary(**summary)
        for summary in runner.run(
            "merging vocabularies",
            tasks.merge_group,
            [
                (shared, k, group, shards, rules, parents, runner.stamp)
                for k, group in enumerate(groups)
            ],
            [runner.mark(f"merge-{mark}") for mark in marks],
            [f"vocabularies, part {k + 1} of {len(groups)}" for k in range(len(groups))],
        )
    ]
    of_column = {
        name: [m for m in merged if any(p.column == name for p in m.parts)] for name in rules
    }
    numbered = {
        name: NumberSummary(**summary)
        for name, summary in zip(
            rules,
            runner.run(
                "numbering",
                number_column,
                [(shared, n, of_column[n], rules[n], output, runner.stamp) for n in rules],
                [runner.mark(f"number-{n}") for n in rules],
                [f"vocabulary of {n}" for n in rules],
            ),
            strict=True,
        )
    }
    assigned = runner.run(
        "assigning ids",
        tasks.assign_group,
        [(shared, k, found, numbered, rules, runner.stamp) for k, found in enumerate(merged)],
        [runner.mark(f"assign-{mark}") for mark in marks],
        [f"ids, part {k + 1} of {len(groups)}" for k in range(len(groups))],
    )
    return Vocabularies(
        {name: found.size for name, found in numbered.items()},
        {name: found.sha256 for name, found in numbered.items()},
        [AssignSummary(**summary) for summary in assigned],
    )


def number_column(
    plan: Plan,
    column: str,
    merged: Sequence[MergeSummary],
    rule: Rule,
    output: Output,
    stamp: str,
) -> Iterator[Summary]:
    """A task: ids of a column's values, and its vocabulary."""
    summary = asdict(
        number(
            plan.work.store,
            column,
            merged,
            rule.max_size,
            output.store,
            f"{VOCABULARY}/{column}.parquet",
            f"number/{column}",
        )
    )
    plan.work.mark(stamped(f"number-{column}", stamp), summary)
    yield summary


def read_parent(plan: Plan, parent: Parent, column: str) -> Iterator[Summary]:
    """A task: a parent's vocabulary in the form of values."""
    name = f"{VOCABULARY}/{column}.parquet"
    out = f"parent/{column}"
    found = write_parent(plan.work.store, out, parent.store, name, column, hash_strings)
    summary = {"values": [asdict(index) for index in found]}
    plan.work.mark(f"parent-{column}", summary)
    yield summary


def _parents(shared: Any, parent: Parent | None, runner: Runner) -> list[ValuesIndex]:
    if parent is None:
        return []
    found = runner.run(
        "reading the parent",
        read_parent,
        [(shared, parent, name) for name in parent.fields],
        [f"parent-{name}" for name in parent.fields],
        [f"the parent's vocabulary of {name}" for name in parent.fields],
    )
    return [ValuesIndex(**index) for summary in found for index in summary["values"]]


def rules_of(config: PreprocessConfig) -> dict[str, Rule]:
    """By field with a vocabulary; raises ConfigError for what cannot go together."""
    rules = {c.name: Rule.of(c, config) for c in config.categorical if has_vocabulary(c)}
    every = ColumnConfig(name="", min_count=1)  # an hour that is rare is an hour all the same
    return rules | {name: Rule.of(every, config) for name in config.derived}
