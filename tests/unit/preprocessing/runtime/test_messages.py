"""Messages are restored from JSON unchanged, arrays and nested classes included."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from preprocessing.runtime.work_dir import from_json, to_json


@dataclass(frozen=True)
class Inner:
    name: str
    sizes: tuple[int, ...]
    pair: tuple[str, float] = ("a", 1.0)


@dataclass
class Outer:
    inner: list[Inner]
    by_name: dict[str, Inner]
    counts: np.ndarray
    some: Inner | None
    none: np.ndarray | None = None
    least: float = math.inf


INNER = Inner("x", (1, 2))


@pytest.mark.parametrize(
    "counts", [np.zeros((0, 6), np.int64), np.arange(6, dtype="<i8").reshape(2, 3)[:, ::2]]
)
def test_a_message_is_restored(counts):
    message = Outer([INNER, Inner("", ())], {"a/b": INNER}, counts, INNER)
    again = from_json(Outer, to_json(message))
    np.testing.assert_array_equal(again.counts, counts)
    assert again.counts.dtype == counts.dtype and again.counts.shape == counts.shape
    again.counts += 1  # it may be written to
    assert (again.inner, again.by_name, again.some) == (message.inner, message.by_name, INNER)
    assert again.none is None and again.least == math.inf


def test_lists_texts_and_nothing_are_messages_too():
    assert from_json(list[Inner], to_json([INNER])) == [INNER]
    assert from_json(str, to_json("a")) == "a" and from_json(type(None), to_json(None)) is None
