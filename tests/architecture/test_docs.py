"""The documents name only files and functions that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PATH = re.compile(
    r"(?<![\w./<>*-])((?:ctrdist|preprocessing|cluster|jobs|tests|benchmarks|docs)/[\w./-]*\w)(?![\w<*…{])"
)
STATION = re.compile(r"`([\w/]+\.(?:py|c))` · `([\w.]+)`")
"""A file and the function or class in it, as docs/row.md writes them."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_paths_in_documents_exist(document):
    found = sorted(set(PATH.findall(document.read_text())))
    wrong = [path for path in found if not (ROOT / path).exists() and "NAME" not in path]
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []


def names(path: Path) -> set[str]:
    """Functions, classes and methods of a Python file; function names of a C file."""
    if path.suffix == ".c":
        return set(re.findall(r"^[\w ]+?\**\s?\**(\w+)\(", path.read_text(), re.M))
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [m for m in node.body if isinstance(m, ast.FunctionDef)]
            found |= {f"{node.name}.{method.name}" for method in methods}
    return found


def test_every_station_of_a_row_exists():
    stations = STATION.findall((ROOT / "docs" / "row.md").read_text())
    assert len(stations) > 20
    wrong = [
        f"{file}: {name}"
        for file, name in stations
        if not (ROOT / file).exists() or name not in names(ROOT / file)
    ]
    assert wrong == []
