"""The paths of a run and the versions of its files, without a run."""

import os
from pathlib import Path

from preprocessing.config.settings import ColumnConfig, JoinConfig, PreprocessConfig
from preprocessing.pipeline import _source, _with_absolute_paths, _work_dir
from preprocessing.runtime.work_dir import WorkDir
from preprocessing.scan.task import Plan, scan_mark
from preprocessing.sources.shards import find_input_splits
from preprocessing.sources.side_tables import load_side_tables
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
    inputs = find_input_splits(config)

    def made_of() -> tuple[str, str]:
        plan = Plan(config, load_side_tables(config), WorkDir(str(tmp_path / "work")))
        return _source(config, inputs)["files"], scan_mark(plan, 0, inputs[0])

    before = made_of()
    assert before == made_of()
    side.write_text("1\ta\n2\tx\n")
    os.utime(side, (1, 1))
    assert not set(before) & set(made_of())
