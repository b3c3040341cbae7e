"""Bad input ends with one message that says where and what to change, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctrdist.data.manifest import open_dataset
from ctrdist.errors import DataError
from preprocessing.config.settings import (
    BadRowsConfig,
    ColumnConfig,
    FormatConfig,
    JoinConfig,
    PreprocessConfig,
    SplitConfig,
)
from preprocessing.pipeline import preprocess
from preprocessing.write.output_dir import MARKER

ROOT = Path(__file__).resolve().parents[2]
JOB = [sys.executable, str(ROOT / "jobs/preprocess.py")]
CRITEO = str(ROOT / "jobs/configs/data/criteo.yaml")
COLUMNS = [
    ColumnConfig(name="label", role="label"),
    ColumnConfig(name="n", role="numeric", type="integer"),
    ColumnConfig(name="c"),
]
GOOD = [f"{i % 2}\t{i}\tv{i % 5}" for i in range(200)]


pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "day_3.tsv"
    path.write_text("\n".join(GOOD) + "\n")
    return path


def config(log: Path, **settings: object) -> PreprocessConfig:
    values = {
        "columns": COLUMNS,
        "input": [str(log)],
        "output": str(log.parent / "out"),
        **settings,
    }
    return PreprocessConfig(**values)  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (
            141,
            "0\t1.5e\tv",
            r'day_3\.tsv:141: column n wants an integer, got "1\.5e"\. Fix the row',
        ),
        (7, "0\t1", r"day_3\.tsv:7: 2 columns, expected 3 \(label, n, c\), separated by tab"),
        (200, "0\t1\tv\tw", r"day_3\.tsv:200: 4 columns, expected 3"),
        (66, "2\t1\tv", r'day_3\.tsv:66: column label wants 0 or 1, got "2"'),
        (66, "\t1\tv", r"day_3\.tsv:66: column label wants 0 or 1, got nothing"),
    ],
)
def test_a_bad_row_is_named_and_nothing_stays(log, line, text, message):
    rows = [*GOOD[: line - 1], text, *GOOD[line:]]
    log.write_text("\n".join(rows) + "\n")
    for shard_bytes in (2**20, 300):  # the line is the file's, in whichever shard it lies
        with pytest.raises(DataError, match=message):
            preprocess(config(log, shard_bytes=shard_bytes))
    assert [p.name for p in log.parent.iterdir()] == ["day_3.tsv"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": ["day_4.tsv"]}, r"day_4\.tsv: no such file\. The folder has day_3\.tsv\."),
        ({"input": ["*.csv"]}, r"\*\.csv: no such file"),
        ({"input": []}, "no input: give --input"),
        ({"output": ""}, "no output: give --output"),
        ({"split": SplitConfig(by="file")}, "names 1 paths, and .* takes three"),
        (
            {"joins": [JoinConfig(file="users.dat", key="c", columns=[COLUMNS[2]])]},
            r"users\.dat: no",
        ),
        ({"format": FormatConfig(type="parquet")}, r"day_3\.tsv: not a Parquet file"),
        ({"format": FormatConfig(encoding="utf-8", separator="::")}, r"day_3\.tsv:1: 1 columns"),
    ],
)
def test_inputs_that_do_not_fit_the_config(log, settings, message):
    if "input" in settings:
        settings["input"] = [str(log.parent / name) for name in settings["input"]]
    with pytest.raises(DataError, match=message):
        preprocess(config(log, **settings))
    assert [p.name for p in log.parent.iterdir()] == ["day_3.tsv"]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_log_is_told(log, content):
    log.write_text(content)
    with pytest.raises(DataError, match=r"day_3\.tsv: no rows; all files are empty"):
        preprocess(config(log))


def test_a_joined_table_has_each_key_once(log):
    (log.parent / "films.tsv").write_text("v1\ta\nv2\tb\nv1\tc\n")
    join = JoinConfig(file="films.tsv", key="c", columns=[COLUMNS[2], ColumnConfig(name="genre")])
    with pytest.raises(DataError, match=r'films\.tsv:3: c "v1" occurs a second time'):
        preprocess(config(log, joins=[join]))


def test_a_finished_data_set_is_replaced_only_when_told_and_only_by_a_good_one(log):
    first = preprocess(config(log))
    before = tree(log.parent / "out")
    again = preprocess(config(log))
    assert again.unchanged and not first.unchanged and again.manifest == first.manifest
    assert tree(log.parent / "out") == before
    with pytest.raises(DataError, match=r"a finished data set is there.*--overwrite true"):
        preprocess(config(log, min_count=2))
    log.write_text("\n".join([*GOOD, "0\tx\tv"]) + "\n")
    with pytest.raises(DataError, match=r"day_3\.tsv:201"):
        preprocess(config(log, overwrite=True))
    assert tree(log.parent / "out") == before
    log.write_text("\n".join(GOOD * 2) + "\n")
    result = preprocess(config(log, overwrite=True, split=SplitConfig(fractions=[1, 0, 0])))
    assert result.rows == 400
    assert {name.split("/")[0] for name in tree(log.parent / "out")} == {
        *("train", "vocabulary", "schema.json", "features.json", "manifest.json"),
        *("report.json", "report.html", ".source.json"),
    }


def test_a_directory_with_other_files_is_left_alone(log):
    out = log.parent / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"it holds other files \(thesis\.tex\)"):
        preprocess(config(log, overwrite=True))
    assert tree(out) == {"thesis.tex": b"years of work"}


def test_a_run_that_a_full_disk_stopped_says_what_is_done_and_is_resumed(log, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("preprocessing.pipeline._splits", full)  # after the parts are written
        with pytest.raises(
            DataError,
            match=r"No space left on device\. reading is done, .*writing is done; what comes after "
            r"is not\. Free space there, .*; run the same command again to resume",
        ):
            preprocess(config(log))
    with pytest.raises(DataError, match="no finished data set"):
        open_dataset(str(log.parent / "out"))
    kept = tree(log.parent / "out")
    assert preprocess(config(log)).rows == len(GOOD)
    done = tree(log.parent / "out")
    assert {n: kept[n] for n in kept if n in done} == {n: done[n] for n in done if n in kept}
    undisturbed = preprocess(config(log, output=str(log.parent / "other")))
    assert tree(log.parent / "other") == done and undisturbed.rows == len(GOOD)


def test_bad_input_that_is_found_late_leaves_nothing_either(log, monkeypatch):
    def late(*_: object) -> None:
        raise DataError("found late")

    with monkeypatch.context() as patched:
        # vocabularies are written by then
        patched.setattr("preprocessing.pipeline.write_data", late)
        with pytest.raises(DataError, match=r"^found late$"):
            preprocess(config(log))
    assert [p.name for p in log.parent.iterdir()] == ["day_3.tsv"]
    assert preprocess(config(log)).rows == len(GOOD)


def test_after_a_row_is_corrected_only_its_file_is_read_again(log, monkeypatch, caplog):
    monkeypatch.setattr("preprocessing.pipeline.KEPT_AFTER_S", 0.0)
    days = [log.with_name(f"day_{day}.tsv") for day in (4, 5, 6)]
    for day in days:
        day.write_text(log.read_text())
    whole = {
        "input": [str(day) for day in days],
        "shard_bytes": log.stat().st_size + 99,
        "workers": 1,
    }
    bad = log.read_text().replace("1\t199\t", "1\tnone\t")
    days[2].write_text(bad)
    with pytest.raises(
        DataError,
        match=r"day_6\.tsv:200: column n .* reading is done for 2 of 3 parts; .* to resume",
    ):
        preprocess(config(log, **whole))
    days[2].write_text(log.read_text())
    assert preprocess(config(log, **whole)).rows == 3 * len(GOOD)
    assert "resuming: 2 tasks of an earlier run are done" in caplog.text
    preprocess(config(log, **whole, output=str(log.parent / "other")))
    assert tree(log.parent / "out") == tree(log.parent / "other")


def test_rows_that_are_bad_are_put_aside_up_to_the_limit(log):
    lines = [*GOOD[:50], "0\tnone\tv", *GOOD[50:], "1\t2", "7\t2\tv"]
    log.write_text("\n".join(lines) + "\n")
    lenient = BadRowsConfig(policy="quarantine", limit=0.02)
    result = preprocess(config(log, bad_rows=lenient))
    assert result.rows == len(GOOD) and result.quarantined == 3
    text = (log.parent / "out/quarantine/part-00000.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    assert [row["line"] for row in found] == [51, 202, 203]
    assert [row["text"] for row in found] == ["0\tnone\tv", "1\t2", "7\t2\tv"]
    assert 'wants an integer, got "none"' in found[0]["reason"]
    report = json.loads((log.parent / "out/report.json").read_text())
    assert sum(report["quarantine"].values()) == 3
    strict = BadRowsConfig(policy="quarantine", limit=0.01)
    with pytest.raises(
        DataError, match=r"3 of 203 rows are bad, more than bad_rows\.limit \(0\.01"
    ):
        preprocess(config(log, bad_rows=strict, overwrite=True))
    assert open_dataset(result.output).manifest == result.manifest


def test_after_a_kill_the_next_run_cleans_up(log):
    rows = [f"{i % 2}\t{i}\tv{i % 9973}" for i in range(1_500_000)]
    large = log.parent / "large.tsv"
    large.write_text("\n".join(rows) + "\n")
    out = log.parent / "out"
    yaml = log.parent / "data.yaml"
    yaml.write_text(
        "columns: [{name: label, role: label}, {name: n, role: numeric}, {name: c}]\n"
        "split: {by: hash}\n"
    )
    argv = [*JOB, "--config", str(yaml), "--input", str(large), "--output", str(out)]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 90
    while not (out / MARKER).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (out / MARKER).exists()
    with pytest.raises(DataError, match="no finished data set"):
        open_dataset(str(out))
    (out / "train").mkdir(exist_ok=True)
    (out / "train/part-00007.parquet").write_bytes(b"half")
    assert preprocess(config(log)).rows == len(GOOD)
    assert open_dataset(str(out)).split("train").rows == 160
    assert not (out / MARKER).exists() and not (out / "train/part-00007.parquet").exists()


def test_a_run_at_work_is_not_disturbed(log):
    out = log.parent / "out"
    out.mkdir()
    owner = {"host": os.uname().nodename, "pid": os.getppid(), "time": time.time()}
    (out / MARKER).write_text(json.dumps(owner))
    with pytest.raises(
        DataError, match=f"another run .process {os.getppid()} on .*. is writing there"
    ):
        preprocess(config(log))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bad.tsv", 'bad.tsv:2: column I1 wants an integer, got "x". Fix the row'),
        ("day.tsv", "day.tsv: no such file."),
    ],
)
def test_the_job_leaves_with_2_and_one_message(tmp_path, name, expected):
    rest = "\t".join(["1"] * 38)
    (tmp_path / "bad.tsv").write_text(f"0\t1\t{rest}\n0\tx\t{rest}\n")
    raw, out = tmp_path / name, tmp_path / "out"
    argv = ["--config", CRITEO, "--input", str(raw), "--output", str(out), "--json"]
    done = subprocess.run([*JOB, *argv], capture_output=True, text=True)
    assert done.returncode == 2
    errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1 and str(tmp_path) in errors[0] and expected in errors[0]
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert [p.name for p in tmp_path.iterdir()] == ["bad.tsv"]


def test_a_dry_run_shows_the_columns_and_starts_nothing(log):
    yaml = log.parent / "data.yaml"
    yaml.write_text("columns: [{name: label, role: label}, {name: n, role: numeric}, {name: c}]\n")
    out = log.parent / "out"
    argv = ["--config", str(yaml), "--input", str(log), "--output", str(out), "--dry-run", "--json"]
    done = subprocess.run([*JOB, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"shards": 1, "bytes": log.stat().st_size}
    assert "numeric" in done.stdout and str(log) in done.stdout and "Ray" not in done.stderr
    assert not out.exists()
