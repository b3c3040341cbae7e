"""Every kind of column, split and order equals a plain count of the rows that went in."""

import gzip
import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctrdist.data.manifest import open_dataset
from ctrdist.errors import ConfigError, DataError
from ctrdist.features.columns import has_vocabulary
from ctrdist.features.encode import LocalRows, arrow_schema, encode
from ctrdist.features.fitted import FEATURES_NAME, FittedFeatures
from ctrdist.features.hashing import bucket_ids, cross_ids, hash_values
from ctrdist.features.transforms import TIME_PARTS
from ctrdist.features.typed_columns import read_typed_columns
from ctrdist.schema import UNKNOWN_ID, file_stem
from preprocessing.config.settings import (
    ColumnConfig,
    CrossConfig,
    FormatConfig,
    JoinConfig,
    PreprocessConfig,
    SplitConfig,
)
from preprocessing.pipeline import preprocess

COLUMNS = [
    ColumnConfig(name="label", role="label"),
    ColumnConfig(name="time", role="timestamp", derive=["hour", "weekend"]),
    ColumnConfig(name="x", role="numeric", numeric_as="both", buckets="quantile", num_quantiles=5),
    ColumnConfig(name="y", role="numeric", transform="min_max"),
    ColumnConfig(name="plain"),
    ColumnConfig(name="top", max_size=3),
    ColumnConfig(name="tail", min_count=40, num_buckets=7),
    ColumnConfig(name="hashed", encoding="hash", num_buckets=11),
]
CROSS = CrossConfig(name="plain_top", columns=["plain", "top"], num_buckets=50)
ROWS = 3000


pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Raw columns; the values' frequencies fall steeply."""
    rng = np.random.default_rng(7)
    values = {
        name: [f"{name}{v}" for v in rng.zipf(1.5, ROWS) % 60]
        for name in ("plain", "top", "tail", "hashed")
    }
    return pd.DataFrame(
        {
            "label": rng.integers(0, 2, ROWS),
            "time": 1_700_000_000 + np.sort(rng.integers(0, 10**6, ROWS)),
            "x": rng.integers(0, 500, ROWS),
            "y": rng.integers(-50, 50, ROWS),
            **values,
        }
    )


@pytest.fixture
def log(tmp_path, frame) -> Path:
    return write(frame, tmp_path / "log.tsv")


def write(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, sep="\t", header=False, index=False)
    return path


def config(log: Path, name: str = "out", **settings: object) -> PreprocessConfig:
    values = {
        "columns": COLUMNS,
        "input": [str(log)],
        "output": str(log.parent / name),
        "row_group_size": 200,
        "shard_bytes": 20_000,
        **settings,
    }
    return PreprocessConfig(**values)  # type: ignore[arg-type]


def stored(output: str | Path, split: str) -> pd.DataFrame:
    files = open_dataset(str(output)).manifest.splits[split].files
    return pd.concat(
        [pq.read_table(Path(output) / f.path).to_pandas() for f in files], ignore_index=True
    )


def digests(output: str | Path) -> dict[str, str]:
    root = Path(output)
    files = [p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def ids_of(train: pd.Series, min_count: int = 1) -> dict[str, int]:
    counts = Counter(train)
    kept = sorted((v for v, n in counts.items() if n >= min_count), key=lambda v: (-counts[v], v))
    return {value: index for index, value in enumerate(kept, 2)}


def test_every_kind_of_column(log, frame):
    result = preprocess(config(log, crosses=[CROSS]))
    train, test = frame[:2400], frame[2700:]
    got = stored(result.output, "test")
    np.testing.assert_array_equal(got["plain"], test["plain"].map(ids_of(train["plain"])).fillna(1))
    three = {v: i for v, i in ids_of(train["top"]).items() if i < 5}
    np.testing.assert_array_equal(got["top"], test["top"].map(three).fillna(1))
    own = ids_of(train["tail"], 40)
    assert 2 <= len(own) < train["tail"].nunique()
    hashed = {n: hash_values(pa.array(test[n])) for n in ("tail", "hashed")}
    further = pd.Series(2 + len(own) + (hashed["tail"] % 7).astype(np.int64), test.index)
    np.testing.assert_array_equal(got["tail"], test["tail"].map(own).fillna(further))
    np.testing.assert_array_equal(got["hashed"], 2 + hashed["hashed"] % 11)
    assert result.vocabulary["tail"] == 2 + len(own) + 7 and result.vocabulary["hashed"] == 13
    hour = lambda rows: (rows["time"] % 86400 // 3600).astype(str)  # noqa: E731
    np.testing.assert_array_equal(got["time_hour"], hour(test).map(ids_of(hour(train))))
    low, high = train["y"].min(), train["y"].max()
    np.testing.assert_allclose(got["y"], np.clip((test["y"] - low) / (high - low), 0, 1), rtol=1e-6)
    edges = open_dataset(result.output).manifest.transforms["x"]["edges"]
    exact = np.quantile(train["x"], [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(edges, exact, atol=2)
    np.testing.assert_array_equal(got["x_bucket"], 2 + np.searchsorted(edges, test["x"], "right"))
    pairs = pd.Series(list(zip(test["plain"], test["top"], strict=True)))
    assert (
        pd.DataFrame({"pair": pairs, "id": got["plain_top"]}).groupby("pair")["id"].nunique().max()
        == 1
    )
    assert got["plain_top"].between(2, 51).all()


@pytest.mark.parametrize("compression", ["", ".gz"])
def test_shards_and_sections_change_the_files_and_not_the_rows(log, frame, compression):
    if compression:
        path = log.with_suffix(".tsv.gz")
        path.write_bytes(gzip.compress(log.read_bytes()))
    else:
        path = log
    whole = preprocess(config(log, "whole", shard_bytes=2**20))
    cut = preprocess(config(path, "cut", shard_bytes=9_000))
    assert len(cut.manifest.splits["train"].files) > 5 > len(whole.manifest.splits["train"].files)
    for split in ("train", "valid", "test"):
        pd.testing.assert_frame_equal(stored(cut.output, split), stored(whole.output, split))
    for name in ("plain", "tail"):
        one, other = (
            (Path(r.output) / f"vocabulary/{name}.parquet").read_bytes() for r in (cut, whole)
        )
        assert one == other


def test_shuffling_moves_the_training_rows_alone_and_always_alike(log, monkeypatch):
    monkeypatch.setattr("preprocessing.write.shuffle.BUCKET_BYTES", 30_000)
    plain = preprocess(config(log, "plain"))
    one = preprocess(config(log, "one", shuffle=True, workers=1))
    three = preprocess(config(log, "three", shuffle=True, workers=3))
    assert digests(one.output) == digests(three.output)
    pd.testing.assert_frame_equal(stored(one.output, "test"), stored(plain.output, "test"))
    before, after = stored(plain.output, "train"), stored(one.output, "train")
    columns = list(before.columns)
    pd.testing.assert_frame_equal(
        before.sort_values(columns, ignore_index=True),
        after.sort_values(columns, ignore_index=True),
    )
    assert len(one.manifest.splits["train"].files) > 1
    moved = np.corrcoef(before["time"].argsort(), after["time"].argsort())[0, 1]
    assert abs(moved) < 0.1
    other = preprocess(config(log, "other", shuffle=True, split=SplitConfig(seed=1)))
    assert not stored(other.output, "train").equals(after)


def test_labels_are_in_equal_shares(log, frame):
    result = preprocess(config(log, split=SplitConfig(by="stratified", fractions=[0.7, 0.2, 0.1])))
    positives = int(frame["label"].sum())
    for share, split in zip((0.7, 0.2, 0.1), result.manifest.splits.values(), strict=True):
        assert abs(split.positives - share * positives) <= 1
        assert abs(split.rows - share * ROWS) <= 2


def test_time_divides_the_rows(log, frame):
    edges = [int(frame["time"].iloc[2000]), int(frame["time"].iloc[2500])]
    given = preprocess(config(log, "given", split=SplitConfig(by="time", times=edges)))
    shares = preprocess(config(log, "shares", split=SplitConfig(by="time")))
    for result in (given, shares):
        times = [stored(result.output, name)["time"] for name in ("train", "valid", "test")]
        assert times[0].max() < times[1].min() and times[1].max() < times[2].min()
    assert stored(given.output, "valid")["time"].min() == edges[0]
    assert abs(shares.manifest.splits["train"].rows - 0.8 * ROWS) < 0.01 * ROWS


def test_new_days_keep_the_ids_and_add_their_own(tmp_path, frame):
    columns = [c if c.num_buckets is None else replace(c, num_buckets=None) for c in COLUMNS[:-1]]
    everything = SplitConfig(fractions=[1, 0, 0])
    frame = frame.drop(columns="hashed")
    old = write(frame[:1000], tmp_path / "old.tsv")
    new = frame[1000:2000].copy()
    new.loc[new["plain"] == "plain1", "plain"] = "new"
    new = write(new, tmp_path / "new.tsv")
    shared = {"columns": columns, "split": everything}
    first = preprocess(config(old, "first", **shared))
    second = preprocess(config(new, "second", parent=first.output, min_count=2, **shared))
    kept = preprocess(
        config(new, "kept", parent=first.output, new_values="unknown", min_count=2, **shared)
    )
    table = {
        r.output: pq.read_table(Path(r.output) / "vocabulary/plain.parquet").to_pandas()
        for r in (first, second, kept)
    }
    before, after = table[first.output], table[second.output]
    assert after["value"][: len(before)].tolist() == before["value"].tolist()
    assert after["id"].tolist() == list(range(2, 2 + len(after)))
    rows = pd.read_csv(new, sep="\t", header=None, names=[c.name for c in columns])
    counts = Counter(rows["plain"])
    added = [v for v in counts if counts[v] >= 2 and v not in set(before["value"])]
    assert "new" in added
    assert after["value"][len(before) :].tolist() == sorted(added, key=lambda v: (-counts[v], v))
    sums = dict(zip(before["value"], before["count"], strict=True))
    for value, count in zip(after["value"], after["count"], strict=True):
        assert count == sums.get(value, 0) + counts[value]
    assert second.manifest.parent == first.manifest.fingerprint
    assert second.manifest.transforms == first.manifest.transforms
    ids = dict(zip(after["value"], after["id"], strict=True))
    got = stored(second.output, "train")["plain"]
    np.testing.assert_array_equal(got, rows["plain"].map(ids).fillna(1))
    assert table[kept.output]["value"].tolist() == before["value"].tolist()
    assert (stored(kept.output, "train")["plain"][rows["plain"] == "new"] == 1).all()
    before = digests(first.output)
    tail = [replace(c, num_buckets=5) if c.name == "tail" else c for c in columns]
    with pytest.raises(ConfigError, match="tail has num_buckets 5, whose ids follow"):
        preprocess(
            config(new, "first", parent=kept.output, columns=tail, split=everything, overwrite=True)
        )
    assert digests(first.output) == before
    other = [replace(c, max_size=2) if c.name == "plain" else c for c in columns]
    with pytest.raises(ConfigError, match="it was made with other columns"):
        preprocess(config(new, "third", parent=first.output, columns=other, split=everything))


def test_lines_of_json_give_the_rows_of_the_table(log, frame):
    lines = log.with_suffix(".jsonl")
    frame.to_json(lines, orient="records", lines=True)
    table = preprocess(config(log, "table"))
    json_lines = preprocess(config(lines, "json", format=FormatConfig(type="jsonl")))
    for split in ("train", "test"):
        pd.testing.assert_frame_equal(stored(json_lines.output, split), stored(table.output, split))


def test_many_small_files_are_read_together(log, frame):
    folder = log.parent / "days"
    for day in range(60):
        (folder / f"day={day:02d}").mkdir(parents=True)
        write(frame[day * 50 : day * 50 + 50], folder / f"day={day:02d}/part.tsv")
    result = preprocess(config(folder, "many"))
    whole = preprocess(config(log, "whole"))
    assert len(result.manifest.splits["train"].files) < 30
    for split in ("train", "valid", "test"):
        pd.testing.assert_frame_equal(stored(result.output, split), stored(whole.output, split))


def test_the_report_counts_the_rows(log, frame):
    result = preprocess(config(log))
    report = json.loads((Path(result.output) / "report.json").read_text())
    columns = {c["name"]: c for c in report["columns"]}
    assert columns["plain"]["distinct"] == frame["plain"][:2400].nunique()
    unknown = 1 - frame["plain"][2700:].isin(frame["plain"][:2400]).mean()
    assert columns["plain"]["unknown_rate"]["test"] == pytest.approx(unknown, abs=1e-3)
    page = (Path(result.output) / "report.html").read_text()
    assert "plain" in page and "http://" not in page.replace("http://www.w3.org", "")


def ids_of_texts(texts: pa.Array, name: str, fitted: FittedFeatures, output: Path) -> np.ndarray:
    """The ids of a field's texts, from the files of a data set alone."""
    column = next((c for c in fitted.categorical if c.name == name), None)
    if column is not None and not has_vocabulary(column):
        return bucket_ids(hash_values(texts), column.num_buckets)
    table = pq.read_table(output / f"vocabulary/{file_stem(name)}.parquet").to_pydict()
    known = dict(zip(table["value"], table["id"], strict=True))
    unknown = np.full(len(texts), UNKNOWN_ID, np.int32)
    if column is not None and column.num_buckets:
        unknown = bucket_ids(hash_values(texts), column.num_buckets) + np.int32(len(known))
    found = [known.get(text, -1) for text in texts.to_pylist()]
    return np.where(np.array(found) < 0, unknown, found).astype(np.int32)


def test_the_wheel_alone_encodes_raw_rows_as_preprocessing_did(log, frame):
    result = preprocess(config(log, crosses=[CROSS]))
    output = Path(result.output)
    fitted = FittedFeatures.from_json((output / FEATURES_NAME).read_text(), FEATURES_NAME)
    assert fitted.schema("").categorical == open_dataset(result.output).schema.categorical
    raw = pa.table({name: pa.array(frame[name].astype(str)) for name in frame})
    typed = read_typed_columns(raw, fitted, str)
    rows, tables = LocalRows(typed.label, typed.numbers, timestamp=typed.timestamp), {}
    texts = {c.name: typed.texts[c.name] for c in fitted.counted}
    for name in fitted.derived:
        part = TIME_PARTS[name.removeprefix("time_")](typed.timestamp)
        texts[name] = pa.array(part).cast(pa.string())
    for name, column in texts.items():
        encoded = column.dictionary_encode()
        rows.local_ids[name] = encoded.indices.to_numpy()
        tables[name] = ids_of_texts(encoded.dictionary, name, fitted, output)
    for cross in fitted.crosses:
        hashes = [hash_values(raw[name]) for name in cross.columns]
        rows.crosses[cross.name] = cross_ids(hashes, cross.num_buckets)
    got = encode(rows, tables, fitted, arrow_schema(fitted.schema(""))).table.to_pandas()
    expected = [stored(output, split) for split in ("train", "valid", "test")]
    pd.testing.assert_frame_equal(got, pd.concat(expected, ignore_index=True))


def test_columns_may_have_any_name(tmp_path, frame):
    names = ["a.b", "../up", "x/y", "?", "run[1]", ".hidden", "%2E", "c@d", "index in the log"]
    columns = [COLUMNS[0], *(ColumnConfig(name=name) for name in names)]
    made = pd.DataFrame({n: frame["plain"] + n for n in names})
    made.insert(0, "label", frame["label"])
    path = write(made, tmp_path / "log.tsv")
    pairs = [CrossConfig(name="a.b/x", columns=["a.b", "x/y"], num_buckets=9)]
    result = preprocess(config(path, columns=columns, crosses=pairs, shuffle=True))
    rows = stored(result.output, "test")
    for name in names:
        ids = ids_of(made[name][: int(0.8 * ROWS)])
        np.testing.assert_array_equal(rows[name], made[name][int(0.9 * ROWS) :].map(ids).fillna(1))
    there = {p.name for p in tmp_path.iterdir()}
    assert there == {"log.tsv", "out"}
    child = preprocess(config(path, "child", columns=columns, crosses=pairs, parent=result.output))
    assert child.vocabulary == result.vocabulary


def test_a_changed_side_table_makes_another_data_set(tmp_path, frame):
    path = write(frame[["label", "plain"]], tmp_path / "log.tsv")
    side = tmp_path / "side.tsv"
    keys = sorted(set(frame["plain"]))
    side.write_text("".join(f"{key}\told\n" for key in keys))
    columns = [COLUMNS[0], ColumnConfig(name="plain")]
    join = JoinConfig(file="side.tsv", key="plain", columns=[columns[1], ColumnConfig(name="kind")])
    settings = config(path, columns=columns, joins=[join])
    first = preprocess(settings)
    assert preprocess(settings).unchanged
    side.write_text("".join(f"{key}\t{'new' if k % 2 else 'old'}\n" for k, key in enumerate(keys)))
    with pytest.raises(DataError, match="a finished data set is there"):
        preprocess(settings)
    second = preprocess(replace(settings, overwrite=True))
    assert first.vocabulary["kind"] == 3 and second.vocabulary["kind"] == 4
