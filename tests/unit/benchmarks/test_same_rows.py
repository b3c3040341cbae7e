"""The comparison of two data sets finds what differs, and nothing else."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.measuring.same_rows import differences

ROWS = 1000


def table(rng: np.random.Generator) -> pa.Table:
    return pa.table(
        {
            "label": rng.integers(0, 2, ROWS).astype(np.float32),
            "I1": rng.normal(size=ROWS).astype(np.float32),
            "C1": rng.integers(1, 50, ROWS).astype(np.int32),
            "C2": rng.integers(1, 50, ROWS).astype(np.int32),
        }
    )


def write(folder: Path, rows: pa.Table, parts: int = 1) -> Path:
    for split in ("train", "valid", "test"):
        (folder / split).mkdir(parents=True)
        for part in range(parts):
            low, high = ROWS * part // parts, ROWS * (part + 1) // parts
            pq.write_table(rows.slice(low, high - low), folder / split / f"part-{part}.parquet")
    return folder


def changed(rows: pa.Table, name: str, row: int, by: float) -> pa.Table:
    values = rows.column(name).to_numpy().copy()
    values[row] += by
    return rows.set_column(rows.column_names.index(name), name, pa.array(values))


def test_files_cut_elsewhere_and_columns_in_another_order_are_the_same(rng, tmp_path):
    rows = table(rng)
    ours = write(tmp_path / "a", rows)
    theirs = write(tmp_path / "b", rows.select(["C2", "label", "C1", "I1"]), parts=3)
    assert differences(ours, theirs) == differences(ours, theirs, ordered=False) == []


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("name", "by"), [("C2", 1), ("label", 1), ("I1", 0.01)])
def test_one_value_that_differs_is_found(rng, tmp_path, ordered, name, by):
    rows = table(rng)
    ours = write(tmp_path / "a", rows)
    theirs = write(tmp_path / "b", changed(rows, name, 777, by))
    found = differences(ours, theirs, ordered=ordered)
    assert len(found) == 3
    if ordered:
        assert found[0].startswith(f"train row 777: {name} is ")


def test_values_of_two_rows_exchanged_are_found_in_any_order(rng, tmp_path):
    rows = table(rng)
    ours = write(tmp_path / "a", rows)
    order = np.arange(ROWS)
    order[[3, 700]] = [700, 3]
    values = rows.column("C1").to_numpy()[order]
    assert values[3] != values[700]
    swapped = rows.set_column(2, "C1", pa.array(values))
    assert differences(ours, write(tmp_path / "b", rows.take(order)), ordered=False) == []
    assert len(differences(ours, write(tmp_path / "c", swapped), ordered=False)) == 3


def test_missing_rows_are_found(rng, tmp_path):
    rows = table(rng)
    ours = write(tmp_path / "a", rows)
    theirs = write(tmp_path / "b", rows)
    (theirs / "test/part-0.parquet").unlink()
    assert differences(ours, theirs) == ["test: 1000 and 0 rows from row 0 on"]
