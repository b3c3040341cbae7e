"""Writes the report of a data set: report.json and report.html."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ctrdist.data.manifest import SPLITS, Manifest
from ctrdist.schema import Schema
from ctrdist.storage import Store
from ctrdist.strict_json import to_text
from preprocessing.config.settings import PreprocessConfig
from preprocessing.report.build import Making, build_report
from preprocessing.report.label_sample import label_warnings
from preprocessing.report.page import render
from preprocessing.scan.task import ShardSummary
from preprocessing.sources.side_tables import Matches, SideTable
from preprocessing.statistics.profile import Profile
from preprocessing.vocabulary.file import first_values
from preprocessing.write.output_dir import REPORT


def write_report(
    store: Store,
    config: PreprocessConfig,
    schema: Schema,
    manifest: Manifest,
    profile: Profile,
    shards: Sequence[ShardSummary],
    side_tables: Sequence[SideTable],
) -> None:
    """Writes the report of the data set in a store, whose rows and vocabularies are written."""

    def top_values(field: str, n: int) -> list[str]:
        return first_values(store, field, n) if field in manifest.vocabularies else []

    reasons: Counter[str] = Counter()
    for shard in shards:
        reasons.update(shard.bad_rows)
    rows = sum(split.rows for split in manifest.splits.values())
    conditioned = sum(shard.left_out for shard in shards)
    not_drawn = sum(shard.split_counts.rows for shard in shards) - rows
    units = [None if column.format else column.unit for column in config.of_role("timestamp")]
    content = build_report(
        profile,
        fingerprint=manifest.fingerprint,
        rows_read=rows + conditioned + not_drawn + sum(reasons.values()),
        quarantined=reasons,
        top_values=top_values,
        making=Making(
            split_by=config.split.by,
            unit=units[0] if units else None,
            joins=_joins(config, shards, side_tables),
            left_out={"where": conditioned, "sample": not_drawn},
            negatives_kept=[config.sample.share(name) for name in SPLITS],
            warnings=label_warnings(store, schema, manifest),
        ),
    )
    store.put(f"{REPORT}.json", (to_text(content, indent=1) + "\n").encode())
    store.put(f"{REPORT}.html", render(content).encode())


def _joins(
    config: PreprocessConfig, shards: Sequence[ShardSummary], side_tables: Sequence[SideTable]
) -> dict[str, dict[str, Any]]:
    """Side table → its key, one of its values, share of rows it has, and a key that it lacks."""
    joins = {}
    for index, (join, side) in enumerate(zip(config.joins, side_tables, strict=True)):
        matches = Matches()
        for shard in shards:
            matches.merge(shard.matches[index])
        joins[join.file] = {
            "key": side.key,
            "matched": matches.rows / max(1, matches.of),
            "lacking": matches.lacking,
            "example": side.keys[0].as_py() or "",
        }
    return joins
