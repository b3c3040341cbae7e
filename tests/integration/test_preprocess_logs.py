"""Data sets of real logs equal an independent count, and the same log gives the same bytes."""

import csv
import gzip
import hashlib
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctrdist.config.parse import parse
from ctrdist.data.manifest import open_dataset
from preprocessing.config.settings import PreprocessConfig
from preprocessing.pipeline import Result, preprocess

PRESETS = Path(__file__).resolve().parents[2] / "jobs/configs/data"
CRITEO = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]


pytestmark = pytest.mark.usefixtures("ray_session")


def run(preset: str, inputs: list[Path], output: Path, *options: str) -> Result:
    argv = ["--config", str(PRESETS / f"{preset}.yaml"), "--output", str(output), *options]
    config, _ = parse(PreprocessConfig, [*argv, "--input", json.dumps([str(p) for p in inputs])])
    return preprocess(config)


def stored(output: Path, split: str) -> pd.DataFrame:
    files = open_dataset(str(output)).manifest.splits[split].files
    return pd.concat([pq.read_table(output / f.path).to_pandas() for f in files], ignore_index=True)


def digests(output: Path) -> dict[str, str]:
    files = [p for p in output.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def criteo_rows(path: Path) -> list[list[str]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [line.rstrip("\n").split("\t") for line in lines]


@pytest.mark.parametrize(
    ("name", "train", "valid"),
    [("dac_first10000.tsv", 7_500, 500), ("dac_80k_hash20.tsv.gz", 60_000, 4_000)],
)
def test_criteo_equals_a_plain_count(shared_data, tmp_path, name, train, valid):
    raw = shared_data / "criteo" / name
    result = run("criteo", [raw], tmp_path / "out", "--numeric_as", "both", "--min_count", "4")
    rows = criteo_rows(raw)
    expected = {}
    for index, column in enumerate(CRITEO[1:], 1):
        values = [row[index] for row in rows[:train]]
        if column.startswith("I"):
            column = f"{column}_bucket"
            values = [plain_bucket(v) for v in values]
        expected[column] = 2 + sum(n >= 4 for n in Counter(values).values())
    assert result.vocabulary == expected
    sizes = {n: s.rows for n, s in result.manifest.splits.items()}
    assert sizes == {"train": train, "valid": valid, "test": len(rows) - train - valid}
    positives = sum(s.positives for s in result.manifest.splits.values())
    assert positives == sum(row[0] == "1" for row in rows)


def plain_bucket(text: str) -> str:
    return text if text == "" or int(text) <= 2 else str(math.floor(math.log(int(text)) ** 2))


def test_criteo_encoding_equals_pandas(shared_data, tmp_path):
    raw = shared_data / "criteo/dac_first10000.tsv"
    output = tmp_path / "out"
    run("criteo", [raw], output, "--numeric_as", "both")
    log = pd.read_csv(raw, sep="\t", header=None, names=CRITEO, dtype=str, keep_default_na=False)
    bounds = {"train": slice(0, 7500), "valid": slice(7500, 8000), "test": slice(8000, None)}
    for name, rows in bounds.items():
        got = stored(output, name)
        np.testing.assert_array_equal(got["label"], log["label"][rows].astype(np.float32))
        for column in ("C1", "C3", "C22", "C26"):
            ids = pandas_ids(log[column][:7500])
            np.testing.assert_array_equal(got[column], log[column][rows].map(ids).fillna(1))
        for column in ("I2", "I12"):
            x = pd.to_numeric(log[column])
            logs = np.sign(x) * np.log1p(x.abs())
            train = logs[:7500].dropna()
            expected = ((logs[rows] - train.mean()) / train.std(ddof=0)).fillna(0)
            np.testing.assert_allclose(got[column], expected, rtol=1e-5, atol=1e-6)
            buckets = log[column].map(plain_bucket)
            ids = pandas_ids(buckets[:7500])
            np.testing.assert_array_equal(got[f"{column}_bucket"], buckets[rows].map(ids).fillna(1))


def pandas_ids(train: pd.Series, min_count: int = 4) -> dict[str, int]:
    counts = Counter(train)
    kept = sorted((v for v, n in counts.items() if n >= min_count), key=lambda v: (-counts[v], v))
    return {value: index for index, value in enumerate(kept, 2)}


def test_frappe_is_split_by_file_and_has_the_published_vocabulary(shared_data, tmp_path):
    names = ("train", "validation", "test")
    raw = [shared_data / f"frappe/{name}.csv.gz" for name in names]
    result = run("frappe", raw, tmp_path / "out")
    assert [s.rows for s in result.manifest.splits.values()] == [202_027, 57_722, 28_860]
    with gzip.open(raw[0], "rt") as lines:
        rows = list(csv.DictReader(lines))
    plain = {c: 2 + len({row[c] for row in rows}) for c in rows[0] if c != "label"}
    assert result.vocabulary == plain
    assert sum(result.vocabulary.values()) == 5_399 == 5_379 + 2 * 10  # with PAD and OOV, as BARS
    hashes = stored(tmp_path / "out", "test")["__user"]
    with gzip.open(raw[2], "rt") as lines:
        assert hashes.nunique() == len({row["user"] for row in csv.DictReader(lines)})


def test_movielens_joins_users_and_films(shared_data, tmp_path):
    folder = shared_data / "movielens-1m"
    output = tmp_path / "out"
    result = run("movielens1m", [folder / "ratings.first487650.dat.gz"], output)
    sizes = [s.rows for s in result.manifest.splits.values()]
    assert sum(sizes) == 487_650
    np.testing.assert_allclose(np.array(sizes) / 487_650, [0.8, 0.1, 0.1], atol=0.002)

    def table(path: Path) -> dict[str, list[str]]:
        return {(f := line.split("::"))[0]: f for line in path.read_text("latin-1").splitlines()}

    users, films = table(folder / "users.dat"), table(folder / "movies.dat")
    with gzip.open(folder / "ratings.first487650.dat.gz", "rt") as lines:
        ratings = {(r[0], r[1], int(r[3])): r[2] for r in (x.strip().split("::") for x in lines)}
    values = {n: pq.read_table(output / f"vocabulary/{n}.parquet") for n in result.vocabulary}
    text = {n: [None, None, *t.column("value").to_pylist()] for n, t in values.items()}
    train = stored(output, "train")
    genres: Counter[str] = Counter()
    for user, film, when, zip_code, kinds, label in zip(
        *(train[c] for c in ("UserID", "MovieID", "Timestamp", "Zip", "Genres", "label")),
        strict=True,
    ):
        user_name, film_name = text["UserID"][user], text["MovieID"][film]
        if user_name is None or film_name is None:  # below min_count
            continue
        assert label == (int(ratings[user_name, film_name, when]) >= 4)
        assert text["Zip"][zip_code] in (users[user_name][4], None)
        assert [text["Genres"][k] for k in kinds] == films[film_name][2].split("|")
        genres.update(films[film_name][2].split("|"))
    assert set(text["Genres"][2:]) == set(genres)
    assert result.vocabulary["Gender"] == 4 and result.vocabulary["Age"] == 9
    assert sum(s.positives for s in result.manifest.splits.values()) == sum(
        int(r) >= 4 for r in ratings.values()
    )


def write_log(folder: Path, name: str, rows: list[list[str]]) -> Path:
    path = folder / name
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def random_rows(rng: np.random.Generator, rows: int) -> list[list[str]]:
    numbers = rng.integers(-3, 900, (rows, 13)).astype(str).tolist()
    tokens = (rng.zipf(1.5, (rows, 26)) % 100).astype(str).tolist()
    return [[str(i % 2), *a, *b] for i, (a, b) in enumerate(zip(numbers, tokens, strict=True))]


def test_the_bytes_depend_neither_on_workers_nor_on_the_place(tmp_path, rng):
    rows = random_rows(rng, 900)
    seen = []
    for workers, place in (("1", "here"), ("3", "there")):
        (tmp_path / place / "raw").mkdir(parents=True)
        cuts = [(0, 250), (250, 300), (300, 900)]
        files = [
            write_log(tmp_path / place / "raw", f"day_{i}.tsv", rows[low:high])
            for i, (low, high) in enumerate(cuts)
        ]
        output = tmp_path / place / "out"
        run("criteo", files, output, "--workers", workers, "--shard_bytes", "9000")
        seen.append(digests(output))
        assert len(open_dataset(str(output)).manifest.splits["train"].files) > 3
        train = stored(output, "train")
        assert train["label"].tolist() == [float(row[0]) for row in rows[: len(train)]]
    assert seen[0] == seen[1]


def test_cutting_into_shards_changes_the_files_and_not_the_rows(tmp_path, rng):
    raw = write_log(tmp_path, "log.tsv", random_rows(rng, 600))
    run("criteo", [raw], tmp_path / "one", "--row_group_size", "100")
    run("criteo", [raw], tmp_path / "many", "--shard_bytes", "7000", "--row_group_size", "100")
    for split in ("train", "valid", "test"):
        pd.testing.assert_frame_equal(
            stored(tmp_path / "one", split), stored(tmp_path / "many", split), rtol=1e-6
        )
    file = open_dataset(str(tmp_path / "one")).manifest.splits["train"].files[0]
    assert file.row_groups == (100, 100, 100, 100, 50)
    written = pq.read_metadata(tmp_path / "one" / file.path)
    groups = [written.row_group(i).num_rows for i in range(written.num_row_groups)]
    assert tuple(groups) == file.row_groups
    assert file.sha256 == hashlib.sha256((tmp_path / "one" / file.path).read_bytes()).hexdigest()


def test_values_of_valid_and_test_alone_are_unknown(tmp_path, rng):
    rows = random_rows(rng, 400)
    for row in rows[300:]:
        row[14] = "late"
    run("criteo", [write_log(tmp_path, "log.tsv", rows)], tmp_path / "out", "--min_count", "1")
    assert set(stored(tmp_path / "out", "test")["C1"]) == {1}
    assert 1 not in set(stored(tmp_path / "out", "train")["C1"])


def test_parquet_and_zstd_give_the_rows_of_the_plain_text(tmp_path, rng):
    rows = random_rows(rng, 300)
    raw = write_log(tmp_path, "log.tsv", rows)
    packed = tmp_path / "packed.tsv.zst"
    with pa.CompressedOutputStream(str(packed), "zstd") as file:
        file.write(raw.read_bytes())
    columns = dict(zip(CRITEO, zip(*rows, strict=True), strict=True))
    typed = {
        n: [int(v) for v in values] if n[0] != "C" else values for n, values in columns.items()
    }
    pq.write_table(pa.table(typed), tmp_path / "log.parquet")
    prints = [
        run("criteo", [raw], tmp_path / "a").manifest.fingerprint,
        run("criteo", [packed], tmp_path / "b").manifest.fingerprint,
        run(
            "criteo", [tmp_path / "log.parquet"], tmp_path / "c", "--format.type", "parquet"
        ).manifest.fingerprint,
    ]
    assert prints[0] == prints[1] == prints[2]
