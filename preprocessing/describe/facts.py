"""Facts about the values of a sampled column."""

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.features.raw_values import MOST, cast_where_possible, plain_array, read_texts

# n rows of the sample, v distinct values

NULLS = (
    "null", "NULL", "Null", "\\N", "NaN", "nan", "N/A", "n/a", "#N/A", "<NA>", "NA", "None",
    "none", "(null)", "nil", "NIL",
)  # fmt: skip
"""Texts that mostly stand for a missing value."""
NULLS_OF_NUMBERS = ("-", "?", "--", ".", "unknown", "Unknown", "na")
"""Texts that stand for a missing value where the others are numbers."""
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_FEW_WRONG = 0.001


@dataclass(frozen=True)
class Facts:
    """Facts about the values of one column."""

    name: str
    rows: int
    values: list[str]
    """(v,) distinct values that are not missing, by falling count; of lists, their items."""
    counts: np.ndarray
    """(v,) int64 rows of each value."""
    missing: int
    """Rows without a value."""
    nulls: set[str] = field(default_factory=set)
    """Texts that stand for a missing value."""
    numbers: np.ndarray | None = None
    """(v,) float64, NaN for those few that are none; None where the values are no numbers."""
    wrong: int = 0
    """Rows whose value is no number, among numbers."""
    is_list: bool = False
    is_boolean: bool = False
    """The column's type is that of true and false, not text."""
    is_time: bool = False
    """The column's type is a date or a time, not text."""
    is_nested: bool = False
    """Preprocessing does not read the column's type."""
    longest: int = 0
    """Items of the longest list."""
    is_counter: bool = False
    """Integers that grow by one from row to row."""

    @property
    def filled(self) -> int:
        """Rows with a value."""
        return self.rows - self.missing

    @property
    def whole(self) -> bool:
        """All values are integers, perhaps written as 3.0."""
        return self.numbers is not None and bool(
            np.all(np.isnan(self.numbers) | (self.numbers == np.trunc(self.numbers)))
        )

    @property
    def is_unique(self) -> bool:
        """Nearly no value occurs twice, in enough rows to tell."""
        return self.filled >= 100 and len(self.values) >= 0.995 * self.filled

    def describe(self) -> str:
        """A short account of the values, for a comment."""
        if not self.values:
            return "always missing"
        shown = ", ".join(_short(value) for value in self.values[:3])
        text = f"{len(self.values):,} values: {shown}" + (", …" if len(self.values) > 3 else "")
        if self.missing:
            text += f"; {self.missing / self.rows:.1%} missing"
        return text


def facts_of(name: str, array: pa.Array) -> Facts:
    """The facts about a column of any type."""
    array = plain_array(array)
    kind = array.type
    if pa.types.is_list(kind):
        return _of_lists(name, array)
    if pa.types.is_nested(kind) or pa.types.is_duration(kind) or pa.types.is_time(kind):
        return _nested(name, array)
    texts, bad = read_texts(array)
    if bad.any():
        return _nested(name, array)
    return replace(
        _of_texts(name, texts),
        is_boolean=pa.types.is_boolean(kind),
        is_time=pa.types.is_temporal(kind),
    )


def _of_texts(name: str, texts: pa.Array) -> Facts:
    rows = len(texts)
    encoded = pc.value_counts(texts.drop_null())
    values, counts = encoded.field(0), encoded.field(1).to_numpy()
    numbers, bad = _as_numbers(values)
    found = values.to_pylist()
    nulls = set(found).intersection(("", *NULLS))
    is_null = np.array([value in nulls for value in found], bool)
    other = bad & ~is_null
    if counts[bad].sum() < counts.sum() and counts[other].sum() < 0.99 * counts.sum():
        others = {found[i] for i in np.flatnonzero(other)} if other.sum() < 10 else {""}
        if others <= set(NULLS_OF_NUMBERS):
            nulls |= others
            is_null |= other
    keep = ~is_null
    values, counts, bad = values.filter(pa.array(keep)), counts[keep], bad[keep]
    numbers = numbers[keep]
    order = np.argsort(-counts, kind="stable")
    filled, wrong = int(counts.sum()), int(counts[bad].sum())
    is_number = filled > 0 and wrong <= _FEW_WRONG * filled
    return Facts(
        name,
        rows,
        values.take(pa.array(order)).to_pylist(),
        counts[order],
        rows - filled,
        nulls - {""},
        numbers[order] if is_number else None,
        wrong if is_number else 0,
        is_counter=is_number and wrong == 0 and _is_counter(texts),
    )


def _as_numbers(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The (v,) numbers, NaN where a text is none, and (v,) bool: where it is none."""
    like = pc.match_substring_regex(values, _NUMBER)
    numbers, bad = cast_where_possible(values.filter(like), pa.float64())
    found = like.to_numpy(zero_copy_only=False)
    result = np.full(len(values), np.nan)
    result[found] = numbers.to_numpy(zero_copy_only=False)
    found[found] = ~bad & (np.abs(result[found]) <= MOST)
    return result, ~found


def _of_lists(name: str, array: pa.Array) -> Facts:
    items = pc.list_flatten(array)
    if pa.types.is_nested(items.type):
        return _nested(name, array)
    texts, bad = read_texts(items)
    if bad.any():
        return _nested(name, array)
    inner = _of_texts(name, texts)
    lengths = pc.list_value_length(array).fill_null(0)
    longest = pc.max(lengths).as_py() or 0
    empty = int((lengths.to_numpy() == 0).sum())
    return Facts(
        name, len(array), inner.values, inner.counts, empty, inner.nulls, is_list=True,
        longest=longest,
    )  # fmt: skip


def _nested(name: str, array: pa.Array) -> Facts:
    return Facts(name, len(array), [], np.zeros(0, np.int64), array.null_count, is_nested=True)


def _is_counter(texts: pa.Array) -> bool:
    whole, bad = cast_where_possible(texts, pa.int64())
    values = whole.drop_null().to_numpy()
    steps = np.diff(values)
    return not bad.any() and len(values) > 100 and bool(np.mean(steps == 1) > 0.99)


def _short(value: str) -> str:
    text = value if len(value) <= 20 else value[:17] + "…"
    return "".join(c if c.isprintable() else "·" for c in text)
