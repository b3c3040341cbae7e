"""The statistics and the table of a study: its variants, compared by the seeds of their runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

METRICS = {"auc": "AUC", "logloss": "logloss", "gauc": "gAUC"}
"""Metrics of the test split in the table, and their titles."""
_SIGNIFICANT = 0.05
_BY_SEED = Mapping[int, Mapping[str, Any]]


def spread(values: Mapping[int, float]) -> dict[str, float]:
    """A metric given by seed: its mean, sd (sample standard deviation) and number of seeds.

    The mean is nan without seeds, and the sd with fewer than two.
    """
    by_seed = _series(values)
    return {"mean": float(by_seed.mean()), "sd": float(by_seed.std()), "seeds": len(by_seed)}


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float]
) -> dict[str, float]:
    """The spread of a metric minus a reference's over common seeds, with p of a paired t-test.

    Runs of one seed share the order of rows and, where shapes agree, the initial weights. The test
    is on their differences, in which the effects of a seed on both cancel. It is two-sided; p is
    nan with fewer than two seeds.
    """
    from scipy import stats

    difference = (_series(values) - _series(reference)).dropna()  # seeds that both have
    found = spread(difference)
    if found["sd"] == 0:  # the test's statistic would be 0/0 or infinite
        p = 1.0 if found["mean"] == 0 else 0.0
    elif math.isnan(found["sd"]):
        p = math.nan
    else:
        p = float(stats.ttest_1samp(difference, 0.0).pvalue)
    return {**found, "p": p}


def _series(values: Mapping[int, float]) -> Any:
    import pandas as pd  # here, because `--help` of the jobs must not wait for it

    return pd.Series(values, dtype="float64")


def comparison_rows(
    results: Mapping[str, _BY_SEED], references: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Returns one row per variant, in the order of the results.

    These are variant → seed → results of the run. The references tell against which variant a
    variant's differences are taken.
    """
    rows = []
    for variant, by_seed in results.items():
        reference = references[variant]
        auc = _values(by_seed, "test", "auc")
        row: dict[str, Any] = {"variant": variant, "reference": reference, "seeds": sorted(by_seed)}
        for metric in METRICS:
            values = _values(by_seed, "test", metric)
            if values:
                row[metric] = spread(values)
        row["valid_auc"] = spread(_values(by_seed, "valid", "auc"))
        if variant != reference and reference in results:
            other = _values(results[reference], "test", "auc")
            row["auc_difference"] = paired_difference(auc, other)
        seconds = {seed: summary["train_seconds"] for seed, summary in by_seed.items()}
        row["train_seconds"] = spread(seconds)["mean"]
        rows.append(row)
    return rows


def comparison_cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the headings and the cells of the table.

    The column "against" names each row's reference; it exists only if there are several.
    """
    several = len({row["reference"] for row in rows}) > 1
    metrics = (f"test {metric}" for metric in METRICS.values())
    against = ["against"] if several else []
    headings = ["variant", "seeds", *metrics, "valid AUC", "Δ test AUC", *against, "p"]
    return headings, [_cells(row, several) for row in rows]


def markdown(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table as a Markdown page."""
    headings, cells = comparison_cells(rows)
    against = "" if "against" in headings else f" against {rows[0]['reference']}"
    note = "Mean ± standard deviation over seeds; Δ and p (paired t-test over common seeds)"
    return markdown_page(name, f"{note}{against}.", headings, cells)


def markdown_page(
    title: str, note: str, headings: Sequence[str], cells: Sequence[Sequence[str]]
) -> str:
    """Returns a Markdown page with a title, one paragraph and a table."""
    lines = [f"| {' | '.join(line)} |" for line in (headings, *cells)]
    lines.insert(1, "|" + "---|" * len(headings))
    return "\n".join([f"# {title}", "", note, "", *lines, ""])


def _values(by_seed: _BY_SEED, split: str, metric: str) -> dict[int, float]:
    """Seed → metric; nan where it is not defined, which JSON has as null."""
    values = {
        seed: summary[split][metric]
        for seed, summary in by_seed.items()
        if metric in (summary.get(split) or {})
    }
    return {seed: math.nan if value is None else value for seed, value in values.items()}


def _cells(row: Mapping[str, Any], several: bool) -> list[str]:
    difference = row.get("auc_difference")
    is_reference = row["variant"] == row["reference"]
    return [
        row["variant"],
        str(len(row["seeds"])),
        *(_mean_and_sd(row.get(metric)) for metric in METRICS),
        _mean_and_sd(row["valid_auc"]),
        "reference" if is_reference else _mean_and_sd(difference, "+"),
        *(["–" if is_reference else row["reference"]] if several else []),
        _p(difference),
    ]


def _mean_and_sd(value: Mapping[str, float] | None, sign: str = "") -> str:
    if value is None or math.isnan(value["mean"]):
        return "–"
    sd = "" if math.isnan(value["sd"]) else f" ± {value['sd']:.5f}"
    return f"{value['mean']:{sign}.5f}{sd}"


def _p(difference: Mapping[str, float] | None) -> str:
    if difference is None or math.isnan(difference["p"]):
        return "–"
    mark = " *" if difference["p"] < _SIGNIFICANT else ""
    p = "< 0.001" if difference["p"] < 0.001 else f"{difference['p']:.3f}"
    return p + mark
