"""Columns of strings: taken, cut and hashed like Arrow's and pandas' own."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ctrdist.native.strings import Strings

VALUES = ["", "a", None, "é", "eight by", "seventeen letters", "x" * 40]
KEY = "ctrdist users 64"


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_any_slice_of_an_array_is_read(kind):
    array = pa.array(["before", *VALUES, "after"], kind)[1:-1]
    strings = Strings.from_array(array)
    assert strings.array().to_pylist() == [value or "" for value in VALUES]
    assert [strings[i] for i in range(3)] == [b"", b"a", b""]
    assert strings.part(3, 5).array().to_pylist() == VALUES[3:5]
    assert len(Strings.from_array(array[:0])) == 0
    assert Strings.from_array(array[:1]).lengths.tolist() == [0]


def test_strings_are_taken_in_any_order(c_or_python, rng):
    strings = Strings.from_array(pa.array(VALUES, pa.string()))
    indices = rng.integers(0, len(VALUES), 100).astype(np.int32)
    expected = [VALUES[i] or "" for i in indices]
    assert strings.take(indices).array().to_pylist() == expected
    assert len(strings.take(indices[:0])) == 0


def test_siphash_is_that_of_pandas(c_or_python):
    values = [value or "" for value in VALUES] + ["x" * n for n in range(30)]
    found = Strings.from_array(pa.array(values)).siphash(KEY)
    expected = pd.util.hash_array(np.array(values, object), hash_key=KEY, categorize=False)
    np.testing.assert_array_equal(found, expected)
