"""Warnings of the report: what may spoil a training run, and what to do about it.

Each is a dict with kind, text and weight; the heaviest come first.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LEAK_AUC = 0.95
UNKNOWN_RATE = 0.2
NEARLY_ALL = 0.9
DRIFT_PSI = 0.25
NULL_RATE = 0.95
DOMINANT_SHARE = 0.99
RATE_ERRORS, RATE_RATIO = 4.0, 0.05
"""Two splits are warned of whose click rates differ by more than 4 standard errors and 5 %."""
JOINED_SHARE = 0.5


def split_warnings(
    splits: dict[str, dict[str, Any]],
    rows_read: int,
    quarantined: int,
    kept: Sequence[float] = (1.0, 1.0, 1.0),
) -> Iterator[dict[str, Any]]:
    """Warnings of the splits and of rows that were left out.

    `kept` are the shares of rows with label 0 that were drawn for each split: click rates are
    compared as they were before.
    """
    if quarantined:
        share = percent(quarantined / max(1, rows_read))
        text = f"{quarantined:,} rows ({share}) were left out; see quarantine/ for which and why."
        yield warning("quarantine", text, 3)
    for name, split in splits.items():
        if not split["rows"]:
            text = f"The split {name} has no rows. Give more rows, or change `split`."
            yield warning("empty", text, 4)
        elif split["click_rate"] in (0, 1):
            text = (
                f"All rows of {name} have the label {split['click_rate']:g}: no AUC can be told. "
                "Correct the label's column, or change `split`."
            )
            yield warning("one_label", text, 9)
    filled = [
        (name, _before_the_draw(split, share))
        for (name, split), share in zip(splits.items(), kept, strict=True)
        if split["rows"]
    ]
    for two, b in filled[1:]:
        one, a = filled[0]
        mean = (a["clicks"] + b["clicks"]) / (a["rows"] + b["rows"])
        error = math.sqrt(mean * (1 - mean) * (1 / a["rows"] + 1 / b["rows"]))
        apart = abs(a["click_rate"] - b["click_rate"])
        if error and apart > RATE_ERRORS * error and apart > RATE_RATIO * mean:
            text = (
                f"Click rate {percent(a['click_rate'])} in {one}, {percent(b['click_rate'])} in "
                f"{two}: {apart / error:.0f} standard errors apart. Predicted probabilities will "
                "be off there; train on rows that are nearer in time, or calibrate."
            )
            yield warning("click_rate", text, 5)


def column_warnings(
    column: dict[str, Any], split_by: str = "position", train_rows: int = 0
) -> Iterator[dict[str, Any]]:
    """Warnings of a column of the report; advice depends on `split.by` and the training rows."""
    auc = column["auc"]
    if column["constant"]:
        text = "Always the same: nothing can be learned from it. `role: ignore` leaves it out."
        yield warning("constant", text, 7)
    if auc is not None and auc > LEAK_AUC:
        text = (
            f"Alone it tells clicks from the rest with an AUC of {auc:.3f}. "
            "Is it known before the click? If not, `role: ignore` leaves it out."
        )
        yield warning("leak", text, 10)
    unknown = {name: rate for name, rate in column["unknown_rate"].items() if rate > UNKNOWN_RATE}
    if unknown and not column["constant"]:
        where = ", ".join(f"{percent(rate)} in {name}" for name, rate in unknown.items())
        text = f"Unknown values: {where}. {_unknown_advice(column, split_by, train_rows)}"
        yield warning("unknown", text, 9 if max(unknown.values()) > NEARLY_ALL else 6)
    drift = {
        name: one["psi"]
        for name, one in column["psi"].items()
        if one["psi"] > max(DRIFT_PSI, 3 * one["chance"])
    }
    if drift:
        where = ", ".join(f"{value:.2f} in {name}" for name, value in drift.items())
        text = (
            f"Its distribution differs from that in training: PSI {where}. If it counts time or "
            "rows, `role: ignore` leaves it out; otherwise train on rows that are nearer in time."
        )
        yield warning("drift", text, 8)
    if column["null_rate"] > NULL_RATE:
        text = (
            f"{percent(column['null_rate'])} of the rows have no value. Correct `format.missing` "
            "if some of them have one; otherwise `role: ignore` leaves it out."
        )
        yield warning("null", text, 2)
    elif column["dominant"] > DOMINANT_SHARE and not column["constant"]:
        text = f"One value fills {percent(column['dominant'])} of the rows: it can tell little."
        yield warning("dominant", text, 1)


def join_warnings(joins: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Warnings of side tables, by file.

    Each has its key, the share of the log's rows that matched, a key of the log that it lacks, and
    an example of its own.
    """
    for file, join in joins.items():
        share = join["matched"]
        if share >= JOINED_SHARE:
            continue
        found = f"Only {percent(share)}" if share else "None"
        text = (
            f"{found} of the rows found {join['key']} in {file}: its columns are missing there. "
            f'The log has "{join["lacking"]}", {file} has "{join["example"]}". Correct the key, or '
            "the format of one of the two."
        )
        yield warning("join", text, 6 if share else 9)


def _before_the_draw(split: dict[str, Any], share: float) -> dict[str, Any]:
    """A split with the number of rows and the click rate that it had without a draw."""
    if share == 1:
        return split
    rows = split["clicks"] + (split["rows"] - split["clicks"]) / share
    return {"rows": rows, "clicks": split["clicks"], "click_rate": split["clicks"] / rows}


def _unknown_advice(column: dict[str, Any], split_by: str, train_rows: int) -> str:
    """Returns advice on unknown values, which depends on why they are unknown."""
    train = column["unknown_rate"].get("train", 0.0)
    if train > NEARLY_ALL or column["distinct"] > NEARLY_ALL * max(1, train_rows):
        return (
            "Nearly every row of train has a value of its own, such as the id of a request: "
            "`role: ignore` leaves it out. If it does repeat, give more rows, lower `min_count`, "
            "or `encoding: hash`."
        )
    if train > UNKNOWN_RATE:
        return (
            "They are rarer than `min_count` in train: a lower `min_count`, or `num_buckets` for a "
            "hashed tail, would tell more of them apart."
        )
    if split_by in ("hash", "stratified"):
        return (
            "They are rare values, which no row of train has: `num_buckets` hashes them, and "
            "`min_count: 2` lets the model learn from train's rare values what unknown means."
        )
    return (
        "They are new values, which first occur after train's rows: train on newer rows "
        "(`--parent` keeps ids), or add columns that describe them, by `joins` for instance."
    )


def warning(kind: str, text: str, weight: float) -> dict[str, Any]:
    """One warning of the report."""
    return {"kind": kind, "text": text, "weight": weight}


def percent(share: float) -> str:
    """A share in percent; 100 % only where it is exactly that."""
    percent = 100 * share
    digits = 1 if percent >= 1 else 3
    text = f"{percent:.{digits}f}"
    if share < 1 and float(text) == 100:
        text = f"{percent:.3f}"[:6]
    return f"{text} %"
