"""The report that preprocessing leaves beside a data set, as a run records it."""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec

REPORT_NAME = "report.json"
REPORT_PAGE = "report.html"
PAGE_BYTES = 5_000_000
"""A page that is larger is not kept with each run."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataReport:
    """What is told of a data set."""

    summary: Mapping[str, Any] = field(default_factory=dict)
    """The summary of report.json: rows, click rates, warnings, and a few figures per column."""
    page: str = ""
    """report.html, or empty."""


def read_report(path: str) -> DataReport:
    """The report of a data set; empty where it has none, as old ones do.

    A report that cannot be read is no reason not to train: it is said, and left out.

    Args:
        path: the data set's directory, local or s3://.
    """
    fs, root = fsspec.core.url_to_fs(path)
    try:
        summary = json.loads(fs.cat_file(posixpath.join(root, REPORT_NAME)))["summary"]
        place = posixpath.join(root, REPORT_PAGE)
        page = fs.cat_file(place).decode() if fs.size(place) < PAGE_BYTES else ""
    except FileNotFoundError:
        return DataReport()
    except Exception as error:  # each store has its own classes
        log.warning("%s: its report cannot be read (%s) and is not recorded", path, error)
        return DataReport()
    return DataReport(summary, page)
