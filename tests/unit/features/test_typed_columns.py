"""Raw columns are read as what they are, and refused with the place where they are not."""

import math

import numpy as np
import pyarrow as pa
import pytest

from ctrdist.errors import DataError
from ctrdist.features.columns import ColumnConfig
from ctrdist.features.hashing import hash_values
from ctrdist.features.transforms import bucket_texts
from ctrdist.features.typed_columns import read_typed_columns
from preprocessing.config.settings import PreprocessConfig

LABEL = ColumnConfig(name="label", role="label")


def read(
    columns: dict[str, pa.Array], *configs: ColumnConfig, label: ColumnConfig = LABEL, **settings
):
    table = pa.table({label.name: pa.array(["1"] * len(next(iter(columns.values())))), **columns})
    config = PreprocessConfig(columns=[label, *configs], **settings)
    return read_typed_columns(table, config, lambda row: f"log:{row + 1}")


def test_bucket_is_the_floor_of_the_squared_logarithm_above_two():
    values = [-3.0, -0.5, 0.0, 1.0, 2.0, 2.5, 3.0, 7.0, 2.0**14 - 1, 2.0**14, 1e6, math.nan]
    expected = [str(math.floor(math.log(x) ** 2)) if x > 2 else str(int(x)) for x in values[:-1]]
    assert bucket_texts(np.array(values)).to_pylist() == [*expected, None]


@pytest.mark.parametrize("text", ["1.5e", "1.5", "x", " 1", "99999999999999999999"])
def test_a_letter_in_an_integer_column_is_told_with_its_line(text):
    with pytest.raises(DataError, match=r'^log:3: column I7 wants an integer, got "') as caught:
        read(
            {"I7": pa.array(["1", None, text, "bad too"])},
            ColumnConfig(name="I7", role="numeric", type="integer"),
        )
    assert f'"{text}"' in str(caught.value)


@pytest.mark.parametrize("text", ["inf", "1,5"])
def test_a_number_must_be_finite_and_well_formed(text):
    with pytest.raises(DataError, match=r"log:2: column x wants a"):
        read({"x": pa.array(["1e-3", text])}, ColumnConfig(name="x", role="numeric"))


def test_integers_of_parquet_need_no_text_and_floats_must_be_whole():
    column = ColumnConfig(name="x", role="numeric", type="integer", transform="raw")
    assert read({"x": pa.array([1, None], pa.int32())}, column).numbers["x"][0] == 1
    assert read({"x": pa.array([2.0, 3.0])}, column).numbers["x"].tolist() == [2, 3]
    with pytest.raises(DataError, match="log:2: column x wants an integer, got"):
        read({"x": pa.array([2.0, 2.5])}, column)


@pytest.mark.parametrize("text", ["2", None, "yes"])
def test_a_label_that_is_neither_0_nor_1_is_told(text):
    table = {"label": pa.array(["0", text]), "c": pa.array(["a", "b"])}
    with pytest.raises(
        DataError, match=r"log:2: column label wants (0 or 1|a number), got (\"|nothing)"
    ):
        read(table, ColumnConfig(name="c"))


def test_a_threshold_makes_the_label():
    label = ColumnConfig(name="Rating", role="label", threshold=4)
    fields = read(
        {"Rating": pa.array(["3", "4", "5"]), "c": pa.array(["a"] * 3)},
        ColumnConfig(name="c"),
        label=label,
    )
    assert fields.label.tolist() == [0, 1, 1]
    with pytest.raises(DataError, match=r"log:1: column Rating wants a finite number, got nothing"):
        read(
            {"Rating": pa.array([None], pa.string()), "c": pa.array(["a"])},
            ColumnConfig(name="c"),
            label=label,
        )


@pytest.mark.parametrize("ready", [False, True])
def test_lists_drop_empty_values_and_the_surplus(ready):
    texts = ["a|b|c", "", None, "|a||", "b"]
    column = (
        pa.array([t if t is None else t.split("|") for t in texts]) if ready else pa.array(texts)
    )
    config = ColumnConfig(name="g", role="multi_valued", max_length=2)
    assert read({"g": column}, config).texts["g"].to_pylist() == [["a", "b"], [], [], ["a"], ["b"]]


def test_hashes_of_users_are_the_same_everywhere():
    got = hash_values(pa.array(["17", "u", None, "", "17"]))
    assert got.tolist() == [got[0], got[1], got[2], got[2], got[0]]
    assert len(set(got.tolist())) == 3
    assert (
        got[:2].tolist() == PINNED
    )  # SipHash-2-4 under a fixed key: a data set written elsewhere has the same
    assert hash_values(pa.array([17]))[0] == got[0]


PINNED = [5538142815745076460, 11973158269843202563]
