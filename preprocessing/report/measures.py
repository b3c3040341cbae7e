"""Measures of a column: AUC, PSI, histograms, as functions of its counts."""

# m cells or bins, S = 3 splits, B bars, T points

import math

import numpy as np

from ctrdist.metrics.auc import auc_of_counts
from preprocessing.statistics.histogram import NumberCounts, quantiles

FEW_CLICKS = 100
"""With fewer held-out clicks, a value is judged by the training rows instead."""
PRIOR_ROWS = 10
"""Rows with the mean click rate that are added to those of each value."""
BARS = 40
PSI_VALUES, PSI_PARTS = 20, 10
"""PSI compares this many of the most frequent values, or quantile ranges of the numbers."""


def by_split(counts: np.ndarray) -> np.ndarray:
    """(m, 6) counts by split and label → (m, S) by split."""
    return counts.reshape(*counts.shape[:-1], counts.shape[-1] // 2, 2).sum(axis=-1)


def area(scores: np.ndarray, negatives: np.ndarray, positives: np.ndarray) -> float | None:
    """AUC of (m,) scores, with the negatives and positives that have each; None without both."""
    if not negatives.sum() or not positives.sum():
        return None
    _, group = np.unique(scores, return_inverse=True)
    return auc_of_counts(np.bincount(group, negatives), np.bincount(group, positives))


def area_of_values(counts: np.ndarray) -> float | None:
    """AUC of ranking held-out rows by the click rate of their value in training.

    With few held-out clicks the training rows are ranked. Their rare values are pooled: alone, each
    would know its own label. `counts`, (m, 6), are by value, split and label.
    """
    shown = counts[:, 2:].reshape(len(counts), -1, 2).sum(axis=1)
    if shown.sum(axis=0).min() < FEW_CLICKS:
        rare = counts[:, :2].sum(axis=1) < FEW_CLICKS
        counts = np.vstack([counts[~rare], counts[rare].sum(axis=0, keepdims=True)])
        shown = counts[:, :2]
    rows = counts[:, :2].sum(axis=1)
    mean = counts[:, 1].sum() / max(1, rows.sum())
    rates = (counts[:, 1] + PRIOR_ROWS * mean) / (rows + PRIOR_ROWS)
    return area(rates, shown[:, 0], shown[:, 1])


def area_of_numbers(numbers: NumberCounts) -> float | None:
    """AUC of ranking rows by the number, rising or falling; missing numbers rank first or last."""
    counts = np.vstack([numbers.counts, numbers.missing[None]])
    negatives, positives = counts[:, 0::2].sum(axis=1), counts[:, 1::2].sum(axis=1)
    order = np.arange(len(numbers.bins))
    missing = (-1, len(order))
    found = [area(np.append(order, last), negatives, positives) for last in missing]
    return max((max(one, 1 - one) for one in found if one is not None), default=None)


def psi(train: np.ndarray, other: np.ndarray) -> tuple[float, float] | None:
    """Population stability index of (m,) counts against those of training.

    Returns:
        Σ (p − q) ln(p / q), with half a row added to each cell, and its expectation by chance
        alone; None where either has no rows.
    """
    if not train.sum() or not other.sum():
        return None
    p = (train + 0.5) / (train + 0.5).sum()
    q = (other + 0.5) / (other + 0.5).sum()
    chance = (len(train) - 1) * (1 / train.sum() + 1 / other.sum())
    return float(((q - p) * np.log(q / p)).sum()), float(chance)


def psi_cells_of_values(splits: np.ndarray) -> np.ndarray:
    """(m, S) rows by id → unknown, the most frequent in training, and all others: (≤ 22, S)."""
    values = splits[2:]
    order = np.argsort(-values[:, 0], kind="stable")
    head, rest = values[order[:PSI_VALUES]], values[order[PSI_VALUES:]]
    return np.vstack([splits[1:2], head, rest.sum(axis=0, keepdims=True)])


def psi_cells_of_numbers(numbers: NumberCounts, weights: np.ndarray | int = 1) -> np.ndarray:
    """Counts by tenth of the training rows' numbers, and of missing numbers: (11, S).

    `weights`, (6,), are what a row of each split and label stands for.
    """
    splits = by_split(numbers.counts * weights)
    train = splits[:, 0]
    part = ((np.cumsum(train) - train) * PSI_PARTS // max(1, train.sum())).astype(np.int64)
    cells = np.zeros((PSI_PARTS + 1, splits.shape[1]), splits.dtype)
    np.add.at(cells, np.minimum(part, PSI_PARTS - 1), splits)
    cells[-1] = by_split(numbers.missing * weights)
    return cells


def histogram(numbers: NumberCounts) -> dict[str, object] | None:
    """Bars of equal width, on a symmetric logarithm where the numbers are skewed.

    Returns:
        scale; edges (B + 1,); shares by split of the rows that have a number (S lists of B); the
        click rate of each bar (B; None where it has no rows); rows of each bar (B). None where no
        row has a number.
    """
    if not len(numbers.bins):
        return None
    total = numbers.counts.sum(axis=1)
    quarter, three = quantiles(numbers, total, (0.25, 0.75))
    low, high = numbers.least, numbers.greatest
    skewed = high - low > 20 * (three - quarter)
    whole = _whole(numbers)
    if skewed and high - low > 10:
        grid = np.linspace(_symlog(low), _symlog(high), BARS + 1)
        edges = np.sign(grid) * np.expm1(np.abs(grid))
        edges[0], edges[-1] = low, high
        if whole:  # a bar without an integer in it would look like a gap
            edges = np.unique(np.round(edges) - 0.5)
            edges = np.append(edges, high + 0.5)
    elif whole and high - low < BARS:
        edges = np.arange(low - 0.5, high + 1)
    else:
        spread = (high - low) or abs(low) or 1.0
        edges = np.linspace(low, low + spread, BARS + 1)
    edges = np.unique([short(edge, 15) for edge in edges])
    counts = _spread(numbers, edges)
    splits, clicks = by_split(counts), counts[:, 1::2].sum(axis=1)
    rows = splits.sum(axis=1)
    shares = splits / np.maximum(1, splits.sum(axis=0))
    return {
        "scale": "symlog" if skewed and high - low > 10 else "linear",
        "edges": edges.tolist(),
        "shares": [[short(x) for x in one] for one in shares.T],
        "click_rate": [
            short(c / n) if n >= 0.5 else None for c, n in zip(clicks, rows, strict=True)
        ],
        "rows": [round(float(n)) for n in rows],
    }


def interval(clicks: float, rows: float) -> tuple[float, float]:
    """95 % confidence interval of a click rate (Wilson 1927)."""
    if not rows:
        return 0.0, 1.0
    z = 1.96
    rate = clicks / rows
    middle = (rate + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def single(numbers: NumberCounts) -> np.ndarray:
    """(m,) bool: the bin holds one value only, an integer among integers that is not too large."""
    return (np.abs(numbers.edges()[0]) < 2 ** (numbers.bits + 1)) & _whole(numbers)


def short(value: float, digits: int = 6) -> float:
    """The value rounded to few digits, which do not depend on the machine's rounding."""
    return float(f"{value:.{digits}g}")


def _whole(numbers: NumberCounts) -> bool:
    """Tells whether all numbers seem to be integers: those with a bin of their own are."""
    edges = numbers.edges()[0]
    near = np.abs(edges) < 2**numbers.bits
    return bool(near.any() and (edges[near] == np.round(edges[near])).all())


def _symlog(value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value)


def _spread(numbers: NumberCounts, edges: np.ndarray) -> np.ndarray:
    """(B, 6) counts between the edges; those of a bin are spread evenly over its width."""
    near, far = numbers.edges()
    far = np.where(single(numbers), near, far)  # one value is no range
    low, high = np.minimum(near, far), np.maximum(near, far)
    low, high = np.maximum(low, numbers.least), np.minimum(high, numbers.greatest)
    high = np.maximum(high, low)
    width = high - low
    out = np.zeros((len(edges) - 1, numbers.counts.shape[1]))
    for bar in range(len(out)):
        left, right = edges[bar], edges[bar + 1]
        overlap = np.clip(np.minimum(high, right) - np.maximum(low, left), 0, None)
        last = bar == len(out) - 1
        inside = (low >= left) & ((low < right) | (last & (low <= right)))
        share = np.where(width > 0, overlap / np.where(width > 0, width, 1), inside)
        out[bar] = share @ numbers.counts
    return out
