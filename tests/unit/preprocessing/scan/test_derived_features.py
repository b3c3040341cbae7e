"""Hours, weekdays and crosses equal those of the standard library and of a plain hash."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from ctrdist.features.encode import LocalRows
from ctrdist.features.hashing import hash_values
from ctrdist.features.transforms import TIME_PARTS
from ctrdist.native.strings import new_dictionary
from preprocessing.config.settings import ColumnConfig, CrossConfig, PreprocessConfig
from preprocessing.scan.derived_features import DerivedFeatures


def test_time_is_taken_apart_as_the_calendar_does(rng):
    seconds = rng.integers(-(10**9), 4 * 10**9, 500)
    days = [datetime.fromtimestamp(s, UTC) for s in seconds.tolist()]
    assert TIME_PARTS["hour"](seconds).tolist() == [d.hour for d in days]
    assert TIME_PARTS["weekday"](seconds).tolist() == [d.weekday() for d in days]
    assert TIME_PARTS["weekend"](seconds).tolist() == [int(d.weekday() >= 5) for d in days]


def test_a_cross_is_one_id_for_one_combination_in_any_block():
    config = PreprocessConfig(
        columns=[
            ColumnConfig(name="label", role="label"),
            ColumnConfig(name="a"),
            ColumnConfig(name="b", missing="unknown"),
        ],
        crosses=[CrossConfig(name="ab", columns=["a", "b"], num_buckets=100_000)],
    )
    a = ["x", "y", "x", "y", "x", "z"]
    b = ["p", "p", "q", None, "p", None]
    found: list[int] = []
    derived, words = DerivedFeatures(config), {"a": new_dictionary(), "b": new_dictionary()}
    for start, end in ((0, 3), (3, 6)):
        rows = LocalRows(np.zeros(end - start, np.float32))
        rows.local_ids = {
            "a": words["a"].add(pa.array(a[start:end])),
            "b": words["b"].add(pa.array(b[start:end], pa.string())),
        }
        derived.add(rows, words)
        found += rows.crosses["ab"].tolist()
    assert found[0] == found[4] and len(set(found)) == 5
    assert min(found) >= 2 and max(found) < 100_002
    one, other = (int(hash_values(pa.array([text]))[0]) for text in ("x", "p"))
    state = (0xCBF29CE484222325 ^ one) * 0x100000001B3 % 2**64
    state = (state ^ other) * 0x100000001B3 % 2**64
    assert found[0] == 2 + (state ^ state >> 32) % 100_000
