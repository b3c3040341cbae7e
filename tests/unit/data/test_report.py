"""What a run records of the data set's report; none is no reason not to train."""

import json
import logging

from ctrdist.data import report
from ctrdist.data.report import read_report


def test_the_summary_and_the_page_are_read(tmp_path, monkeypatch):
    (tmp_path / "report.json").write_text(json.dumps({"summary": {"rows_kept": 3}, "columns": []}))
    (tmp_path / "report.html").write_text("<p>é</p>")
    assert read_report(str(tmp_path)) == ({"rows_kept": 3}, "<p>é</p>")
    monkeypatch.setattr(report, "PAGE_BYTES", 5)
    assert read_report(str(tmp_path)) == ({"rows_kept": 3}, "")


def test_none_or_a_broken_one_is_left_out(tmp_path, caplog):
    assert read_report(str(tmp_path)) == ({}, "") and not caplog.records
    (tmp_path / "report.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert read_report(str(tmp_path)) == ({}, "")
    assert "report cannot be read" in caplog.text
