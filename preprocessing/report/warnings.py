"""Warnings of the report: what may spoil a training run, and what to do about it."""

import math
from collections.abc import Iterator
from typing import Any

LEAK_AUC = 0.95
UNKNOWN_RATE = 0.2
DRIFT_PSI = 0.25
NULL_RATE = 0.95
DOMINANT_SHARE = 0.99
RATE_ERRORS, RATE_RATIO = 4.0, 0.05
"""Two splits are warned of whose click rates differ by more than 4 standard errors and 5 %."""


def split_warnings(
    splits: dict[str, dict[str, Any]], rows_read: int, quarantined: int
) -> Iterator[dict[str, Any]]:
    """Warnings of the data set as a whole, each with kind, text and weight."""
    if quarantined:
        share = _percent(quarantined / max(1, rows_read))
        text = f"{quarantined:,} rows ({share}) were left out; see quarantine/ for which and why."
        yield _warning("quarantine", text, 3)
    for name, split in splits.items():
        if not split["rows"]:
            yield _warning("empty", f"The split {name} has no rows.", 4)
        elif split["click_rate"] in (0, 1):
            text = f"All rows of {name} have the label {split['click_rate']:g}: no AUC can be told."
            yield _warning("one_label", text, 9)
    filled = [(name, split) for name, split in splits.items() if split["rows"]]
    for two, b in filled[1:]:
        one, a = filled[0]
        mean = (a["clicks"] + b["clicks"]) / (a["rows"] + b["rows"])
        error = math.sqrt(mean * (1 - mean) * (1 / a["rows"] + 1 / b["rows"]))
        apart = abs(a["click_rate"] - b["click_rate"])
        if error and apart > RATE_ERRORS * error and apart > RATE_RATIO * mean:
            text = (
                f"Click rate {_percent(a['click_rate'])} in {one}, {_percent(b['click_rate'])} in "
                f"{two}: {apart / error:.0f} standard errors apart. Predicted probabilities will "
                "be off there."
            )
            yield _warning("click_rate", text, 5)


def column_warnings(column: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Warnings of a column of the report, each with kind, text and weight."""
    auc = column["auc"]
    if column["constant"]:
        text = "Always the same: nothing can be learned from it. `role: ignore` leaves it out."
        yield _warning("constant", text, 6)
    if auc is not None and auc > LEAK_AUC:
        text = (
            f"Alone it tells clicks from the rest with an AUC of {auc:.3f}. "
            "Is it known before the click?"
        )
        yield _warning("leak", text, 10)
    unknown = {name: rate for name, rate in column["unknown_rate"].items() if rate > UNKNOWN_RATE}
    if unknown and not column["constant"]:
        where = ", ".join(f"{_percent(rate)} in {name}" for name, rate in unknown.items())
        text = (
            f"Unknown: {where}. A lower `min_count`, or `num_buckets` for a hashed tail, "
            "would tell more of them apart."
        )
        yield _warning("unknown", text, 7)
    drift = {
        name: one["psi"]
        for name, one in column["psi"].items()
        if one["psi"] > max(DRIFT_PSI, 3 * one["chance"])
    }
    if drift:
        where = ", ".join(f"{value:.2f} in {name}" for name, value in drift.items())
        text = f"Distributed otherwise than in training: PSI {where}."
        yield _warning("drift", text, 8)
    if column["null_rate"] > NULL_RATE:
        text = f"{_percent(column['null_rate'])} of the rows have no value."
        yield _warning("null", text, 2)
    elif column["dominant"] > DOMINANT_SHARE and not column["constant"]:
        text = f"One value fills {_percent(column['dominant'])} of the rows."
        yield _warning("dominant", text, 1)


def _warning(kind: str, text: str, weight: int) -> dict[str, Any]:
    return {"kind": kind, "text": text, "weight": weight}


def _percent(share: float) -> str:
    """A share in percent; 100 % only where it is exactly that."""
    percent = 100 * share
    digits = 1 if percent >= 1 else 3
    text = f"{percent:.{digits}f}"
    if share < 1 and float(text) == 100:
        text = f"{percent:.3f}"[:6]
    return f"{text} %"
