"""Reads the report that preprocessing writes into a data set, for the record of a run."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from ctrdist.storage import Store

REPORT_NAME = "report.json"
REPORT_PAGE = "report.html"
PAGE_BYTES = 5_000_000
"""Larger pages are not stored with each run."""

log = logging.getLogger(__name__)


def read_report(path: str) -> tuple[Mapping[str, Any], str]:
    """Returns a data set's report; empty if it has none, as older data sets do.

    The first is the summary of report.json: rows, click rates, warnings, and a few figures per
    column. The second is report.html.

    A report that cannot be read costs a warning and not the run.
    """
    store = Store(path)
    try:
        summary = json.loads(store.get(REPORT_NAME))["summary"]
        page = store.get(REPORT_PAGE).decode()
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, LookupError, TypeError) as error:
        log.warning("%s: its report cannot be read (%s) and is not recorded", path, error)
        return {}, ""
    return summary, page if len(page) < PAGE_BYTES else ""
