"""What lies where: folders, sizes of files, and nothing that holds on one machine only."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FOLDERS = {"benchmarks", "cluster", "ctrdist", "docs", "jobs", "preprocessing", "tests"}
FILES = {
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "pyproject.toml",
    "ray_cluster.yaml",
    "requirements.lock",
}
MADE = {"build", "ctrdist.egg-info", "demo", "dist", "runs"}
"""Made by running things; ignored by git."""

MACHINE_PATH = re.compile(r"(?<![\w.~$}/])/(?:home|root|Users|work|opt|mnt|srv)/")
REGISTRY_HOST = re.compile(
    r"pypi\.(?:org|python)|pythonhosted|download\.pytorch|registry\.npmjs|--index-url"
)


def tracked(*suffixes: str) -> list[Path]:
    """Files of the project with one of these suffixes, or of these names."""
    tops = [ROOT / name for name in (*FOLDERS, *FILES, ".ci") if (ROOT / name).exists()]
    files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*"))]
    return sorted(
        file
        for file in files
        if file.is_file()
        and "__pycache__" not in file.parts
        and (file.suffix in suffixes or file.name in suffixes)
    )


def test_the_root_holds_only_what_architecture_md_names():
    there = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert there <= FOLDERS | FILES | MADE


@pytest.mark.parametrize("path", tracked(".py"), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_longer_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_no_path_of_one_machine_and_no_registry_is_named():
    texts = tracked(".py", ".yaml", ".toml", ".md", ".lock", ".svg", "Makefile", "run")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if MACHINE_PATH.search(line) or REGISTRY_HOST.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/home/me/data", True),
        ('path = "/work/x"', True),
        ("~/work/x", False),
        ("https://host/work/x", False),
        ("runs/work/x", False),
    ],
)
def test_what_counts_as_a_path_of_one_machine(line, found):
    assert bool(MACHINE_PATH.search(line)) == found
