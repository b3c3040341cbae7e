"""A click log in Criteo's shape with planted interactions, so that the best reachable AUC is known.

The log-odds of a click are an intercept plus three parts. Each is scaled to its own standard
deviation over rows. The first order is an effect of each value of some fields, and of the logarithm
of some integers. The second and third order are products of two and three latent factors of the
values. Factors of the second order have the mean zero, so a model without interactions sees nothing
of them; those of the third order have another mean, so that lower orders lead a learner to them.
The other fields are noise, as in real logs.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from ctrdist.config.parse import to_dict
from ctrdist.errors import DataError
from ctrdist.metrics.auc import auc_of_counts
from ctrdist.strict_json import to_text
from preprocessing.config.synthetic import LogConfig

CARDINALITIES = (
    *(20, 400, 6000, 5000, 12, 16, 3000, 30, 3, 4000, 2000, 6000, 1500),
    *(24, 3000, 5000, 10, 1000, 40, 4, 6000, 14, 18, 4000, 32, 2000),
)
"""Distinct values of C1…C26."""
FIRST_ORDER = (1, 2, 5, 6, 8, 9, 14, 17, 19, 20, 22, 23, 25)
"""The C fields with an effect of their own."""
FIRST_ORDER_INTEGERS = (1, 3, 6, 11)
"""The I fields with one."""
PAIRS = ((1, 5), (6, 8), (14, 17))
TRIPLES = ((5, 6, 17),)
STRENGTHS = (1.1, 1.35, 0.9)
"""Standard deviations of the parts of first, second and third order, in log-odds."""
TRIPLE_MEAN = 0.6
"""Mean of a factor of the third order whose standard deviation is 1."""
ZIPF = 1.2
"""Exponent of the frequency of a value over its rank."""
CLICK_RATE = 0.25
MISSING_INTEGERS = (0.4, 0.0, 0.2, 0.2, 0.02, 0.2, 0.04, 0.0, 0.04, 0.4, 0.04, 0.7, 0.2)
"""Share of rows in which I1…I13 is missing."""
MISSING_CATEGORIES = dict.fromkeys((3, 4, 12), 0.03) | dict.fromkeys((19, 20, 25, 26), 0.4)
MISSING_CATEGORIES |= {6: 0.1, 22: 0.7}
"""Share of rows in which that C field is missing; missing is one more value, with effects of its
own."""
CHUNK_ROWS = 2**18
TEST_FRACTION = 0.2
"""Share of the last rows, for which the best reachable AUC is computed."""
TRUTH = "truth.json"


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Results on the last rows of a model that knows each row's probability: the best possible."""

    rows: int
    seed: int
    files: int
    test_rows: int
    """The last 20 % of the rows."""
    positives: int
    """Rows with label 1, of all."""
    bayes_auc: float
    """AUC of the true probabilities against the labels that were drawn, on the test rows."""
    expected_auc: float
    """The expectation of bayes_auc over labels."""
    bayes_logloss: float
    """Log loss of the true probabilities on the test rows."""


@dataclass(frozen=True)
class _Planted:
    """Effects that make the log-odds; value V of a field of V values is missing."""

    shares: dict[int, np.ndarray]
    first: dict[int, np.ndarray]
    slopes: dict[int, float]
    products: dict[tuple[int, ...], list[np.ndarray]]
    """Fields that are multiplied → the factor of each of their values."""
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0)
    centre: float = 0.0


def write_log(config: LogConfig) -> Truth:
    """Writes the log and truth.json.

    Raises:
        DataError: the directory holds something else.
    """
    folder = _prepare(config)
    planted = _calibrated(_plant(np.random.default_rng([config.seed, 0])), config.seed)
    edges = [config.rows * i // config.files for i in range(config.files + 1)]
    first_test = config.rows - round(config.rows * TEST_FRACTION)
    labels, odds, first = [], [], 0
    writers: list[pa_csv.CSVWriter] = []
    options = pa_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    tokens = {field: _tokens(field, size) for field, size in enumerate(CARDINALITIES, 1)}
    for table, label, logit in _chunks(config, planted, tokens):
        for index in range(config.files):
            low, high = max(first, edges[index]), min(first + len(label), edges[index + 1])
            if low < high:
                if len(writers) == index:
                    path = str(folder / f"day_{index}.tsv")
                    writers.append(pa_csv.CSVWriter(path, table.schema, write_options=options))
                writers[index].write_table(table.slice(low - first, high - low))
        labels.append(label)
        odds.append(logit)
        first += len(label)
    for writer in writers:
        writer.close()
    positives = sum(int(label.sum()) for label in labels)
    y = np.concatenate(labels)[first_test:].astype(np.float64)
    probability = _sigmoid(np.concatenate(odds)[first_test:])
    truth = Truth(
        rows=config.rows,
        seed=config.seed,
        files=config.files,
        test_rows=len(y),
        positives=positives,
        bayes_auc=weighted_auc(probability, y),
        expected_auc=weighted_auc(probability, probability),
        bayes_logloss=float(-(y * np.log(probability) + (1 - y) * np.log1p(-probability)).mean()),
    )
    text = {**asdict(truth), "config": {**to_dict(config), "output": ""}}
    (folder / TRUTH).write_text(to_text(text, indent=1) + "\n")
    return truth


def _prepare(config: LogConfig) -> Path:
    if not config.output:
        raise DataError("no output: give --output a directory.")
    folder = Path(config.output)
    ours = [*folder.glob("day_*.tsv"), *folder.glob(TRUTH)]
    if folder.is_file() or (folder.is_dir() and len(list(folder.iterdir())) > len(ours)):
        raise DataError(f"--output {folder}: something else is there. Choose another directory.")
    if ours and not config.overwrite:
        raise DataError(
            f"--output {folder}: a log is there. "
            "Choose another directory, or give --overwrite true."
        )
    for file in ours:
        file.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _plant(rng: np.random.Generator) -> _Planted:
    shares = {field: _shares(field, size) for field, size in enumerate(CARDINALITIES, 1)}

    def factor(field: int, mean: float) -> np.ndarray:
        values = rng.normal(size=len(shares[field]))
        values -= shares[field] @ values
        return mean + values / np.sqrt(shares[field] @ values**2)

    return _Planted(
        shares=shares,
        first={field: factor(field, 0.0) for field in FIRST_ORDER},
        slopes={field: float(rng.choice([-1.0, 1.0])) for field in FIRST_ORDER_INTEGERS},
        products={pair: [factor(f, 0.0) for f in pair] for pair in PAIRS}
        | {triple: [factor(f, TRIPLE_MEAN) for f in triple] for triple in TRIPLES},
    )


def _shares(field: int, size: int) -> np.ndarray:
    """(V + 1,) probability of each value of a field; the last is missing."""
    missing = MISSING_CATEGORIES.get(field, 0.0)
    weights = np.arange(1, size + 1, dtype=np.float64) ** -ZIPF
    return np.append(weights / weights.sum() * (1 - missing), missing)


def _calibrated(planted: _Planted, seed: int) -> _Planted:
    """Scales the parts to their strengths and finds the intercept for the click rate."""
    rng = np.random.default_rng([seed, 1])
    categories, integers = _draw(planted, rng, CHUNK_ROWS)
    parts = _parts(planted, categories, integers)
    scales = tuple(s / part.std() for s, part in zip(STRENGTHS, parts, strict=True))
    total: Any = sum(scale * part for scale, part in zip(scales, parts, strict=True))
    low, high = -20.0, 20.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        too_many = _sigmoid(total + middle).mean() > CLICK_RATE
        low, high = (low, middle) if too_many else (middle, high)
    return replace(planted, scales=scales, centre=low)


def _draw(
    planted: _Planted, rng: np.random.Generator, rows: int
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Values of the C fields, as index, and of the I fields, NaN where missing."""
    categories, integers = {}, {}
    for field, shares in planted.shares.items():
        sums = np.cumsum(shares)
        categories[field] = np.searchsorted(sums / sums[-1], rng.random(rows), side="right")
    for field, missing in enumerate(MISSING_INTEGERS, 1):
        least = -3 if field == 2 else 0
        values = np.floor(np.exp(rng.normal(1.0 + 0.2 * field, 1.2, rows))) + least
        values[rng.random(rows) < missing] = np.nan
        integers[field] = values
    return categories, integers


def _parts(
    planted: _Planted, categories: dict[int, np.ndarray], integers: dict[int, np.ndarray]
) -> list[np.ndarray]:
    """First-, second- and third-order parts of the log-odds, (rows,) each, before scaling."""
    first: Any = sum(effect[categories[field]] for field, effect in planted.first.items())
    for field, slope in planted.slopes.items():
        value = integers[field]
        logarithm = np.log1p(np.maximum(value, 0.0)) - (1.2 + 0.2 * field)
        first = first + slope * np.where(np.isnan(value), 0.0, logarithm)
    parts = {2: np.zeros(len(first)), 3: np.zeros(len(first))}
    for fields, factors in planted.products.items():
        values = [f[categories[c]] for f, c in zip(factors, fields, strict=True)]
        parts[len(fields)] += np.prod(values, axis=0)
    return [first, *parts.values()]


def _chunks(
    config: LogConfig, planted: _Planted, tokens: dict[int, pa.Array]
) -> Iterator[tuple[pa.Table, np.ndarray, np.ndarray]]:
    """(rows, labels, log-odds) of each chunk; a chunk depends on the seed and its place only."""
    for index, first in enumerate(range(0, config.rows, CHUNK_ROWS)):
        rng = np.random.default_rng([config.seed, 2, index])
        categories, integers = _draw(planted, rng, CHUNK_ROWS)
        parts = _parts(planted, categories, integers)
        logit: Any = planted.centre + sum(
            s * part for s, part in zip(planted.scales, parts, strict=True)
        )
        label = (rng.random(CHUNK_ROWS) < _sigmoid(logit)).astype(np.int8)
        rows = min(CHUNK_ROWS, config.rows - first)
        columns = {"label": pa.array(label)}
        for field, values in integers.items():
            missing = np.isnan(values)
            columns[f"I{field}"] = pa.array(
                np.where(missing, 0, values).astype(np.int64), mask=missing
            )
        for field, values in categories.items():
            columns[f"C{field}"] = tokens[field].take(pa.array(values))
        yield pa.table(columns).slice(0, rows), label[:rows], logit[:rows]


def _tokens(field: int, size: int) -> pa.Array:
    """(V + 1,) the text of each value, 8 hexadecimal digits; null for the last, missing."""
    start = int.from_bytes(hashlib.sha256(f"C{field}".encode()).digest()[:4], "big")
    numbers = (
        np.arange(size, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(start)
    ) % np.uint64(2**32)
    return pa.array([*(f"{number:08x}" for number in numbers.tolist()), None], pa.string())


def weighted_auc(score: np.ndarray, weight: np.ndarray) -> float:
    """Probability that a positive row has a higher (n,) score than a negative one, ties half.

    `weight`, (n,), has the labels, or the probabilities of being positive. With the latter, this is
    the expected number of rightly ordered pairs over that of pairs.
    """
    _, group = np.unique(score, return_inverse=True)
    return auc_of_counts(np.bincount(group, 1 - weight), np.bincount(group, weight))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
