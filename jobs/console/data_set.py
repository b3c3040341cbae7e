"""The plan of preprocessing, and the table of the data set that it has written."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ctrdist.features.columns import ColumnConfig
from preprocessing.config.settings import PreprocessConfig
from preprocessing.pipeline import Result
from preprocessing.sources.shards import InputSplit


def show_data_plan(config: PreprocessConfig, shards: Sequence[InputSplit]) -> None:
    """Prints the columns and inputs of a dry run."""
    console = Console()
    columns = Table("column", "role", "becomes", title=f"{config.name}: columns")
    for column in config.all_columns:
        columns.add_row(column.name, column.role, _becomes(column, config))
    console.print(columns)
    lines = [f"{len(shards)} shards, split by {config.split.by}:"]
    for shard in shards:
        first, last = shard.ranges[0], shard.ranges[-1]
        if len(shard.ranges) == 1:
            what = f"{first.name}: bytes {first.start:,} to {first.end:,}"
        else:
            what = f"{first.name} … {last.name}: {len(shard.ranges):,} files, {shard.bytes:,} bytes"
        lines.append(f"  {what}{f', {shard.split}' if shard.split else ''}")
    lines.append(f"would write {config.output}; nothing was started")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def show_data_set(result: Result) -> None:
    """Prints splits and vocabularies, where they are, and what to do next."""
    console = Console()
    splits = Table("split", "rows", "positives", "rate", "files", title="written")
    for name, split in result.manifest.splits.items():
        rate = f"{split.positives / split.rows:.4f}" if split.rows else "–"
        splits.add_row(name, f"{split.rows:,}", f"{split.positives:,}", rate, str(len(split.files)))
    console.print(splits)
    sizes = sorted(result.vocabulary.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {size:,}" for name, size in sizes[:8])
    more = f" and {len(sizes) - 8} more" if len(sizes) > 8 else ""
    total = sum(result.vocabulary.values())
    lines = [
        f"vocabularies: {total:,} ids in {len(sizes)} fields: {shown}{more}",
        f"{result.rows:,} rows in {result.seconds:.1f} s: {result.rows_per_s:,.0f} rows/s"
        if not result.unchanged
        else "nothing to do: this data set was made from the same inputs and settings",
        f"data set {result.manifest.fingerprint} in {result.output}",
        f"report: {result.output}/report.html",
        f"next: python jobs/train_dlf.py --data {result.output}",
    ]
    if result.quarantined:
        lines.insert(1, f"{result.quarantined:,} bad rows left out: {result.output}/quarantine/")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _becomes(column: ColumnConfig, config: PreprocessConfig) -> str:
    name, role = column.name, column.role
    if role == "numeric":
        both = {"number": [name], "bucket": [f"{name}_bucket"], "both": [name, f"{name}_bucket"]}
        return ", ".join(both[config.numeric_of(column)])
    return {"label": "label", "user": f"{name}, __user"}.get(role, name)
