"""The demo removes nothing that it did not write."""

from contextlib import contextmanager

import pytest

from ctrdist.errors import DataError
from jobs.demo import DemoConfig, demo


class NoJobs(Exception):
    """Ends the demo where it would start a cluster."""


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    @contextmanager
    def own_cluster(num_cpus):
        raise NoJobs
        yield

    monkeypatch.setattr("cluster.job_submission.own_cluster", own_cluster)


def test_a_users_data_and_log_are_kept(tmp_path):
    mine = tmp_path / "data" / "mine.csv"
    mine.parent.mkdir()
    mine.write_text("precious")
    with pytest.raises(NoJobs):
        demo(DemoConfig(output=str(tmp_path), rows=200, overwrite=True))
    assert mine.read_text() == "precious"

    notes = tmp_path / "log" / "notes.txt"
    notes.write_text("precious")
    with pytest.raises(DataError, match="something else is there"):
        demo(DemoConfig(output=str(tmp_path), rows=300, overwrite=True))
    assert notes.read_text() == "precious" and mine.exists()


def test_a_log_is_used_again_and_another_is_replaced_only_if_told(tmp_path):
    def rows(**settings: object) -> int:
        with pytest.raises(NoJobs):
            demo(DemoConfig(output=str(tmp_path), **settings))
        files = (tmp_path / "log").glob("day_*.tsv")
        return sum(len(path.read_text().splitlines()) for path in files)

    assert rows(rows=200) == 200
    written = (tmp_path / "log" / "day_0.tsv").stat().st_mtime_ns
    assert rows(rows=200) == 200
    assert (tmp_path / "log" / "day_0.tsv").stat().st_mtime_ns == written
    with pytest.raises(DataError, match="--overwrite true"):
        demo(DemoConfig(output=str(tmp_path), rows=300))
    assert rows(rows=300, overwrite=True) == 300
