"""Dictionaries: codes by first appearance, hashes that are the same everywhere, memory freed."""

import gc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrdist.native.strings import (
    Dictionary,
    PythonDictionary,
    hash_strings,
    new_dictionary,
)

KINDS = [Dictionary, PythonDictionary]
TEXTS = st.text(st.sampled_from("ab0é\0"), max_size=20)


def first_seen(values: list[str | None], codes: dict[str, int]) -> list[int]:
    return [-1 if v is None else codes.setdefault(v, len(codes)) for v in values]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.lists(TEXTS | st.none(), max_size=30), max_size=4), large=st.booleans())
def test_codes_go_by_first_appearance(kind, parts, large):
    dictionary, expected = kind(), {}
    for values in parts:
        array = pa.array(["x", *values], pa.large_string() if large else pa.string())[1:]
        codes = dictionary.add(array)
        assert codes.dtype == np.int32
        assert codes.tolist() == first_seen(values, expected)
    assert dictionary.values().to_pylist() == list(expected)
    assert len(dictionary) == len(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_many_values_of_all_lengths_keep_their_codes(kind, rng):
    dictionary = kind()
    values = ["v" * (i % 23) + str(i) for i in rng.integers(0, 100_000, 150_000)]
    expected: dict[str, int] = {}
    for begin in range(0, len(values), 40_000):
        part = values[begin : begin + 40_000]
        assert dictionary.add(pa.array(part)).tolist() == first_seen(part, expected)
    assert dictionary.add(pa.array(list(expected))).tolist() == list(range(len(expected)))
    assert dictionary.values().to_pylist() == list(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_integers_are_their_decimal_texts(kind, rng):
    numbers = np.concatenate(
        [rng.integers(-30, 30, 1000), [0, -1, 2**63 - 1, -(2**63)], rng.integers(0, 2**62, 300)]
    )
    empty = rng.random(len(numbers)) < 0.1
    dictionary = kind()
    codes = dictionary.add_integers(numbers, empty)
    texts = ["" if e else str(n) for n, e in zip(numbers.tolist(), empty, strict=True)]
    assert codes.tolist() == first_seen(texts, {})
    assert dictionary.add(pa.array(texts)).tolist() == codes.tolist()
    assert dictionary.add_integers(numbers[~empty]).tolist() == codes[~empty].tolist()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=40), unique=True, max_size=50))
def test_hashes_are_those_of_the_bytes_alone(kind, texts):
    dictionary = kind()
    dictionary.add(pa.array(texts, pa.string()))
    hashes = dictionary.hashes()
    assert hashes.dtype == np.uint64
    np.testing.assert_array_equal(hashes, hash_strings(pa.array(texts, pa.string())))
    backwards = kind()
    backwards.add(pa.array(texts[::-1], pa.string()))
    np.testing.assert_array_equal(backwards.hashes()[::-1], hashes)


def test_hashes_stay_what_they_are():
    """Files of an earlier run are partitioned by them."""
    texts = pa.array(["", "a", "05db9164", "05db9164x", "a longer value, of three words"])
    assert [f"{h:016x}" for h in hash_strings(texts).tolist()] == [
        "0000000000000000",
        "1d083e1e900a1252",
        "09231dae3c4e355f",
        "2c8f4357c30c3d77",
        "da6d30e384d049fa",
    ]


def test_any_bits_of_the_hash_partition_evenly():
    hashes = hash_strings(pa.array([f"{i:x}" for i in range(64_000)]))
    for shift in (0, 13, 29, 58):
        share = np.bincount((hashes >> np.uint64(shift)).astype(np.int64) & 63, minlength=64)
        assert np.abs(share - 1000).max() < 160  # five deviations


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_truncated_was_never_there(kind, rng):
    values = pa.array([str(v) for v in rng.integers(0, 3000, 5000)])
    dictionary, other = kind(), kind()
    dictionary.add(values[:2000])
    kept = len(dictionary)
    before = dictionary.values()
    dictionary.add(values[2000:])
    assert len(dictionary) > kept
    dictionary.truncate(kept)
    assert dictionary.values() == before
    other.add(values[:2000])
    again = pa.array([*values[4000:].to_pylist(), "new"])
    assert dictionary.add(again).tolist() == other.add(again).tolist()


def test_memory_is_freed_with_the_object():
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    values = pa.array([f"{i:032x}" for i in range(100_000)])
    before, size = 0, 5_000_000  # 32 bytes and at least 21 bytes a value
    for repeat in range(12):
        dictionary = new_dictionary()
        dictionary.add(values)
        del dictionary
        gc.collect()
        if repeat == 3:
            before = resident()
    assert resident() - before < 2 * size  # eight were made since


def test_the_kind_depends_on_the_compiler(c_or_python):
    assert type(new_dictionary()) is {"c": Dictionary, "python": PythonDictionary}[c_or_python]
