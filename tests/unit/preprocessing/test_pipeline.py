"""The paths of a run and the versions of its files, without a run."""

from __future__ import annotations

import os
from pathlib import Path

from preprocessing.config.settings import ColumnConfig, JoinConfig, PreprocessConfig
from preprocessing.pipeline import _side_versions, _source, _with_absolute_paths, _work_dir
from preprocessing.scan.task import scan_mark
from preprocessing.sources.shards import find_shards
from preprocessing.write.output_dir import Output


def work_url(config: PreprocessConfig) -> str:
    config = _with_absolute_paths(config)
    return _work_dir(config, Output(config.output)).store.url


def test_runs_in_two_directories_have_two_work_directories(tmp_path, monkeypatch):
    """Both give the same relative output, and share --work."""
    columns = [ColumnConfig(name="label", role="label"), ColumnConfig(name="c")]
    config = PreprocessConfig(columns=columns, output="out", work=str(tmp_path / "work"))
    found = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found.add(work_url(config))
        absolute = PreprocessConfig(
            columns=columns, output=str(tmp_path / name / "out"), work=config.work
        )
        assert work_url(absolute) in found
    assert len(found) == 2 and all(url.startswith(f"{tmp_path}/work/") for url in found)


def test_local_paths_become_absolute_and_urls_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = [ColumnConfig(name="label", role="label"), ColumnConfig(name="c")]
    given = PreprocessConfig(columns=columns, output="a", work="s3://bucket/w", parent="../p")
    config = _with_absolute_paths(given)
    assert (config.output, config.work) == (str(tmp_path / "a"), "s3://bucket/w")
    assert config.parent == str(tmp_path.parent / "p")


def test_a_changed_side_table_makes_another_data_set(tmp_path: Path):
    (tmp_path / "log.tsv").write_text("0\t1\n1\t2\n")
    side = tmp_path / "campaigns.csv"
    side.write_text("1\ta\n2\tb\n")
    key, name = ColumnConfig(name="c"), ColumnConfig(name="campaign")
    config = PreprocessConfig(
        columns=[ColumnConfig(name="label", role="label"), key],
        joins=[JoinConfig(file="campaigns.csv", key="c", columns=[key, name])],
        input=[str(tmp_path / "log.tsv")],
        output=str(tmp_path / "out"),
    )
    shards = find_shards(config)
    before = _source(config, shards), scan_mark(0, shards[0], _side_versions(config))
    assert before == (_source(config, shards), scan_mark(0, shards[0], _side_versions(config)))
    side.write_text("1\ta\n2\tx\n")
    os.utime(side, (1, 1))
    after = _source(config, shards), scan_mark(0, shards[0], _side_versions(config))
    assert before[0]["files"] != after[0]["files"] and before[1] != after[1]
