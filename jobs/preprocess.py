"""Makes a data set for training from a raw click log: vocabularies, ids, Parquet.

python jobs/preprocess.py --config jobs/configs/data/criteo.yaml --input day_*.tsv --output
data/criteo
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.features.columns import USER, WEIGHT, ColumnConfig
from ctrdist.schema import LABEL
from jobs.console.cli import call, run
from jobs.console.data_warnings import warning_lines
from preprocessing.config.settings import PreprocessConfig, join_paths

if TYPE_CHECKING:  # they are slow to import
    from preprocessing.pipeline import Result
    from preprocessing.sources.shards import InputSplit

DRY_RUN = "Show the columns and the inputs that were found, and start nothing."


def main(config: PreprocessConfig, switches: Mapping[str, bool]) -> dict[str, Any]:
    """Preprocesses, and describes the data set."""
    from ctrdist.data.report import read_report
    from preprocessing.pipeline import check, preprocess

    if switches["dry_run"]:
        checked = check(config)
        shards = checked.inputs
        _show_plan(checked.config, shards)
        return {"shards": len(shards), "bytes": sum(s.bytes for s in shards)}

    def start_ray() -> None:
        from cluster.session import connect

        print("starting Ray …", file=sys.stderr, flush=True)
        connect(config.workers or None)

    result = preprocess(config, start_ray)
    summary, _ = read_report(result.output)
    warnings = summary.get("warnings", [])
    _show_result(result, summary)
    splits = {
        name: {"rows": s.rows, "positives": s.positives}
        for name, s in result.manifest.splits.items()
    }
    return {
        "rows": result.rows,
        "rows_per_s": round(result.rows_per_s, 1),
        "seconds": round(result.seconds, 3),
        "passes": {name: round(s, 3) for name, s in result.passes.items()},
        "quarantined": result.quarantined,
        "unchanged": result.unchanged,
        "vocabulary": dict(result.vocabulary),
        "splits": splits,
        "output": result.output,
        "fingerprint": result.manifest.fingerprint,
        "warnings": [
            {key: one[key] for key in ("kind", "column", "text") if key in one} for one in warnings
        ],
    }


def _show_plan(config: PreprocessConfig, shards: Sequence[InputSplit]) -> None:
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


def _show_result(result: Result, report: Mapping[str, Any]) -> None:
    """Prints splits, vocabularies and the report's warnings, and what to do next."""
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
    splits_of = result.manifest.splits
    for label in splits_of["train"].labels:
        rates = [f"{s.labels[label] / s.rows:.4f} in {n}" for n, s in splits_of.items() if s.rows]
        lines.insert(0, f"label {label}: {', '.join(rates)}")
    drawn = [f"{s.negatives_kept:g} in {n}" for n, s in splits_of.items() if s.negatives_kept < 1]
    if drawn:
        lines.insert(0, f"drawn of the rows with label 0: {', '.join(drawn)}")
    if result.quarantined:
        lines.insert(1, f"{result.quarantined:,} bad rows left out: {result.output}/quarantine/")
    for setting, rows in report.get("rows_left_out", {}).items():
        lines.insert(0, f"{rows:,} rows left out by `{setting}`")
    lines += warning_lines(report.get("warnings", []))
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)


def _becomes(column: ColumnConfig, config: PreprocessConfig) -> str:
    name, role = column.name, column.role
    if role == "numeric":
        both = {"number": [name], "bucket": [f"{name}_bucket"], "both": [name, f"{name}_bucket"]}
        return ", ".join(both[config.numeric_of(column)])
    if column == config.label:
        return LABEL
    return {"weight": WEIGHT, "user": f"{name}, {USER}"}.get(role, name)


if __name__ == "__main__":
    arguments = join_paths(sys.argv[1:])
    run(lambda: call(main, PreprocessConfig, __doc__, argv=arguments, dry_run=DRY_RUN))
