"""Vocabularies and moments are those of a straight count, however the rows are cut into blocks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from preprocessing.config import ColumnConfig, PreprocessConfig
from preprocessing.encode import arrow_schema, encode, schema_of
from preprocessing.fields import Fields
from preprocessing.statistics import Counts, Encoding, Moments, learn, vocabulary

CONFIG = PreprocessConfig(
    columns=[
        ColumnConfig(name="label", role="label"),
        ColumnConfig(name="x", role="numeric"),
        ColumnConfig(name="c", min_count=2),
        ColumnConfig(name="u", missing="unknown"),
        ColumnConfig(name="g", role="multi_valued"),
    ]
)


def block(c, u=None, g=None, x=None, label=None) -> Fields:
    n = len(c)
    return Fields(
        label=np.array(label or [0.0] * n, np.float32),
        numbers={"x": np.array(x or [0.0] * n, np.float64)},
        tokens={
            "c": pa.array(c, pa.string()),
            "u": pa.array(u or c, pa.string()),
            "g": pa.array(g or [[]] * n, pa.list_(pa.string())),
        },
    )


@pytest.mark.parametrize("sizes", [[100], [1, 99], [30, 30, 40], [10] * 10])
def test_moments_of_parts_are_those_of_the_whole(rng, sizes):
    values = 1e4 + rng.normal(size=100)
    parts = np.split(values, np.cumsum(sizes)[:-1])
    total = Moments()
    for part in parts:
        total = total + Moments.of(part)
    assert total.count == 100
    np.testing.assert_allclose(
        [total.mean, total.deviation], [values.mean(), values.std()], rtol=1e-9
    )


def test_no_values_or_equal_ones_divide_by_one():
    assert Moments().deviation == 1
    assert Moments.of(np.full(5, 3.0)).deviation == 1
    assert (Moments() + Moments.of(np.ones(2))).count == 2


def test_ids_fall_with_the_count_and_ties_go_by_bytes():
    counts = pa.table({"value": ["b", "é", "z", "a", "Z", "once"], "count": [3, 3, 3, 9, 3, 1]})
    table = vocabulary(counts, 2)
    assert table.column("value").to_pylist() == ["a", "Z", "b", "z", "é"]
    assert table.column("id").to_pylist() == [2, 3, 4, 5, 6]
    assert table.column("count").to_pylist() == [9, 3, 3, 3, 3]
    assert [str(f.type) for f in table.schema] == ["string", "int32", "int64"]


def test_only_training_rows_are_counted_and_missing_is_a_value_unless_told_otherwise():
    counts = Counts()
    counts.add(
        block(["a", None, "a"], g=[["p", "q"], [], ["p"]], label=[1, 0, 1]),
        np.array([0, 0, 0]),
        CONFIG.categorical,
    )
    counts.add(
        block(["a", None, "b"], g=[["p"], ["r"], []], label=[0, 1, 1]),
        np.array([0, 2, 1]),
        CONFIG.categorical,
    )
    got = {
        n: dict(zip(*t.to_pydict().values(), strict=True))
        for n, t in counts.compact().values.items()
    }
    assert got == {"c": {"a": 3, "": 1}, "u": {"a": 3}, "g": {"p": 3, "q": 1}}
    assert counts.rows.tolist() == [4, 1, 1]
    assert counts.positives.tolist() == [2, 1, 1]


def test_moments_are_of_training_rows_with_a_value():
    counts = Counts()
    x = [1.0, float("nan"), 5.0, 100.0]
    counts.add(block(["a"] * 4, x=x), np.array([0, 0, 0, 1]), CONFIG.categorical)
    assert counts.moments["x"] == Moments(2, 3.0, 8.0)


def test_shards_merge_to_the_count_of_all(rng):
    tokens = [[f"v{i}" for i in rng.zipf(1.3, 200) % 50] for _ in range(4)]
    total = Counts()
    for part in tokens:
        shard = Counts()
        shard.add(block(part), np.zeros(200, np.int8), CONFIG.categorical)
        total.merge(shard.compact())
    encoding = learn(total, CONFIG)
    expected = Counter(t for part in tokens for t in part)
    kept = sorted((v for v, n in expected.items() if n >= 2), key=lambda v: (-expected[v], v))
    assert encoding.vocabularies["c"].column("value").to_pylist() == kept


def test_encoding_gives_ids_zero_for_missing_numbers_and_one_for_unknown():
    vocabularies = {
        "c": vocabulary(pa.table({"value": ["a", ""], "count": [5, 4]}), 1),
        "u": vocabulary(pa.table({"value": ["a"], "count": [5]}), 1),
        "g": vocabulary(pa.table({"value": ["p", "q"], "count": [5, 4]}), 1),
    }
    encoding = Encoding(vocabularies, {"x": Moments(4, 10.0, 16.0)})
    schema = schema_of(CONFIG, encoding)
    assert [f.vocabulary_size for f in schema.categorical] == [4, 3, 4]
    fields = block(
        ["a", None, "new"],
        g=[["q", "p", "new"], [], ["p"]],
        x=[14.0, float("nan"), 8.0],
        label=[1, 0, 0],
    )
    table = encode(fields, CONFIG, encoding, arrow_schema(schema))
    assert table.to_pydict() == {
        "label": [1, 0, 0],
        "x": [2, 0, -1],
        "c": [2, 3, 1],
        "u": [2, 1, 1],
        "g": [[3, 2, 1], [], [2]],
    }
    assert [str(f.type) for f in table.schema][:4] == ["float", "float", "int32", "int32"]
