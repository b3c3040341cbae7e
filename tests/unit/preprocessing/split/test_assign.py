"""Splits by position have the right sizes; splits by hash depend on content and seed alone."""

import numpy as np
import pyarrow as pa

from preprocessing.config.settings import SplitConfig
from preprocessing.split.assign import bounds, by_row_hash, row_hash


def by_hash(table: pa.Table, config: SplitConfig) -> np.ndarray:
    return by_row_hash(row_hash(table, config.seed), config)


def test_position_gives_the_published_sizes():
    assert bounds(SplitConfig(fractions=[0.75, 0.05, 0.2]), 80_000) == (60_000, 64_000)
    assert bounds(SplitConfig(fractions=[1, 0, 0]), 7) == (7, 7)


def test_hash_depends_on_the_row_alone_and_keeps_equal_rows_together(rng):
    table = pa.table(
        {
            "a": [str(v) for v in rng.integers(0, 500, 4000)],
            "b": [str(v) for v in rng.integers(0, 9, 4000)],
        }
    )
    config = SplitConfig(by="hash", fractions=[0.8, 0.1, 0.1])
    chosen = by_hash(table, config)
    order = rng.permutation(4000)
    np.testing.assert_array_equal(by_hash(table.take(order), config), chosen[order])
    seen: dict[tuple[str, str], int] = {}
    for row, split in zip(zip(*table.to_pydict().values(), strict=True), chosen, strict=True):
        assert seen.setdefault(row, split) == split


def test_hash_gives_the_fractions_and_another_seed_gives_another_split():
    table = pa.table({"a": [str(i) for i in range(50_000)], "b": ["same"] * 50_000})
    chosen = {
        s: by_hash(table, SplitConfig(by="hash", fractions=[0.8, 0.1, 0.1], seed=s)) for s in (1, 2)
    }
    for split in chosen.values():
        np.testing.assert_allclose(np.bincount(split) / 50_000, [0.8, 0.1, 0.1], atol=0.006)
    agree = (chosen[1] == chosen[2]).mean()
    assert abs(agree - 0.66) < 0.02  # 0.8² + 0.1² + 0.1² where the two are independent


def test_hash_distinguishes_columns():
    config = SplitConfig(by="hash", fractions=[0.5, 0.25, 0.25])
    values = [str(i) for i in range(2000)]
    there = by_hash(pa.table({"a": values, "b": ["x"] * 2000}), config)
    swapped = by_hash(pa.table({"a": ["x"] * 2000, "b": values}), config)
    assert (there != swapped).mean() > 0.4
