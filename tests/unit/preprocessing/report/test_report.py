"""The report warns of what was planted, and its page shows a log's texts as texts."""

import json
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from ctrdist.features.encode import Encoded, LocalRows
from ctrdist.schema import CategoricalField, Schema
from preprocessing.report.build import build_report
from preprocessing.report.page import render
from preprocessing.statistics.profile import Profile

N = 30_000
HOSTILE = [
    '</td><script>alert("x")</script>',
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }}",
    "tab\tand\0nul\u202e",
    "",
    "long " * 60,
]


def field(name: str, size: int, multi_valued: bool = False) -> CategoricalField:
    return CategoricalField(name=name, vocabulary_size=size, multi_valued=multi_valued)


def report_of(numbers, ids, *, split, label, missing=None, hashed=(), top=None, **given) -> dict:
    fields = tuple(
        field(
            n,
            5000 if n in hashed else int(np.max(v[1] if isinstance(v, tuple) else v)) + 1,
            isinstance(v, tuple),
        )
        for n, v in ids.items()
    )
    schema = Schema(name="made up", numeric=tuple(numbers), categorical=fields, **given)
    profile = Profile.empty(schema, hashed)
    time = np.arange(len(label)) * 60 + 1_700_000_000 if schema.timestamp else None
    rows = LocalRows(np.asarray(label, np.float32), numbers, timestamp=time)
    profile.add(split, rows, Encoded(pa.table({}), ids, missing or {}), np.arange(len(label)))
    return build_report(
        profile,
        fingerprint="0123abcd",
        rows_read=len(label) + 3,
        quarantined={"<b>I1</b> wants an integer": 3},
        top_values=top or (lambda name, n: [f"{name} {i}" for i in range(n)]),
    )


@pytest.fixture
def log(rng) -> dict:
    """A log with one thing wrong in each of its columns."""
    split = np.repeat([0, 1, 2], [N - 10_000, 5000, 5000]).astype(np.int8)
    label = (rng.random(N) < np.where(split == 2, 0.35, 0.2)).astype(np.float32)
    late = split == 2
    numbers = {
        "fine": rng.normal(size=N),
        "far": 1e9 + rng.integers(0, 1000, N),  # all in one bin, and yet not one value
        "leak": 2 * label + rng.random(N),
        "constant": np.full(N, 3.0),
        "empty": np.where(rng.random(N) < 0.97, np.nan, rng.normal(size=N)),
        "shifted": rng.normal(size=N) + 2 * late,
    }
    ids = {
        "good": rng.integers(2, 40, N).astype(np.int32),
        "one": np.full(N, 2, np.int32),
        "mostly": np.where(rng.random(N) < 0.995, 2, 3).astype(np.int32),
        "new": np.where(rng.random(N) < np.where(late, 0.4, 0.05), 1, 2).astype(np.int32),
        "moved": np.where(late, rng.integers(20, 40, N), rng.integers(2, 25, N)).astype(np.int32),
        "tells": np.where(label == 1, rng.integers(2, 9, N), rng.integers(9, 20, N)).astype(
            np.int32
        ),
        "hash": rng.integers(2, 5000, N).astype(np.int32),
    }
    return {"numbers": numbers, "ids": ids, "split": split, "label": label, "hashed": ["hash"]}


def test_every_planted_fault_is_warned_of_and_nothing_else(log):
    summary = report_of(**log)["summary"]
    found = sorted((one.get("column", ""), one["kind"]) for one in summary["warnings"])
    assert found == [
        ("", "click_rate"),
        ("", "quarantine"),
        ("constant", "constant"),
        ("empty", "null"),
        ("leak", "leak"),
        ("mostly", "dominant"),
        ("moved", "drift"),
        ("new", "drift"),
        ("new", "unknown"),
        ("one", "constant"),
        ("shifted", "drift"),
        ("tells", "leak"),
    ]


def test_figures_are_those_of_the_rows(log):
    report = report_of(**log, missing={"good": 300})
    json.dumps(report, allow_nan=False)
    summary, columns = report["summary"], {c["name"]: c for c in report["columns"]}
    assert (summary["rows_read"], summary["rows_kept"], summary["rows_quarantined"]) == (
        N + 3,
        N,
        3,
    )
    test = log["split"] == 2
    assert summary["splits"]["test"] == {
        "rows": 5000,
        "clicks": int(log["label"][test].sum()),
        "click_rate": pytest.approx(log["label"][test].mean(), rel=1e-5),
    }
    assert columns["good"]["null_rate"] == 0.01 and columns["good"]["distinct"] == 38
    unknown = (log["ids"]["new"][test] == 1).mean()
    assert columns["new"]["unknown_rate"]["test"] == pytest.approx(unknown, rel=1e-5)
    top = columns["good"]["top"][0]
    chosen = log["ids"]["good"] == top["id"]
    assert top["value"] == f"good {top['id'] - 2}" and top["rows"] == chosen.sum()
    assert top["clicks"] == log["label"][chosen].sum()
    assert [one["id"] for one in columns["new"]["top"]] == [2, 1]
    assert columns["hash"]["top"] == [] and columns["hash"]["psi"]["test"]["psi"] < 0.05
    series = report["series"]
    assert sum(series["rows"]) == N and sum(series["clicks"]) == log["label"].sum()
    assert series["split"][0] == "train" and series["split"][-1] == "test"
    attention = [c["attention"] for c in report["columns"]]
    assert attention == sorted(attention, reverse=True) and "fine" not in list(columns)[:8]


class Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def test_texts_of_the_log_are_shown_and_never_run(log):
    name = "<img src=x onerror=alert(1)>"
    log["ids"][name] = log["ids"].pop("good")
    report = report_of(**log, top=lambda _, n: (HOSTILE * n)[:n], timestamp=None)
    page = Page(render(report))
    assert page.tags.isdisjoint({"script", "img", "link", "iframe", "object", "b2"})
    assert not [a for a, _ in page.attributes if a.startswith("on") or a == "src"]
    assert {v[0] for a, v in page.attributes if a == "href" and v} == {"#"}
    shown = "".join(page.texts)
    for text in (name, *HOSTILE[:3], "<b>I1</b> wants an integer", "tab\\tand\\x00nul\\u202e"):
        assert text in shown
    assert "missing" in page.texts and HOSTILE[5] not in shown and "long long" in shown
    assert "default-src 'none'" in dict(page.attributes)["content"]


def test_rates_over_time_and_lists_are_shown(log, rng):
    offsets = np.arange(0, 2 * N + 1, 2, dtype=np.int32)
    log["ids"]["tags"] = (offsets, rng.integers(2, 9, 2 * N).astype(np.int32))
    report = report_of(**log, timestamp="time")
    tags = next(c for c in report["columns"] if c["name"] == "tags")
    assert tags["mean_length"] == 2 and tags["kind"] == "values"
    assert report["series"]["over"] == "time"
    page = "".join(Page(render(report)).texts)
    assert "Click rate over time" in page and "2023-11-14" in page and "values per row" in page


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_hardly_any_rows_make_a_report_all_the_same(rows):
    report = report_of(
        {"x": np.array([np.nan, 5.0])[:rows]},
        {"c": np.array([2, 1], np.int32)[: max(1, rows)][:rows]} if rows else {},
        split=np.zeros(rows, np.int8),
        label=np.array([0, 1], np.float32)[:rows],
    )
    json.dumps(report, allow_nan=False)
    assert "made up" in render(report)


def test_a_thousand_columns_stay_a_page_that_opens(rng):
    n = 3000
    numbers = {f"n{i}": rng.normal(size=n) for i in range(200)}
    ids = {f"c{i}": rng.integers(1, 50, n).astype(np.int32) for i in range(800)}
    split = np.arange(n) % 3
    report = report_of(
        numbers, ids, split=split.astype(np.int8), label=(np.arange(n) % 7 == 0).astype(np.float32)
    )
    assert len(render(report)) < 4_500_000
