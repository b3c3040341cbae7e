"""Package, dependencies and lock belong together, and a CPU machine gets no CUDA package."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"benchmarks", "cluster", "ctrdist", "jobs", "preprocessing", "tests"}
DISTRIBUTIONS = {"yaml": "pyyaml", "sklearn": "scikit-learn", "fbgemm_gpu": "fbgemm-gpu"}
"""Import name → name of the package, where they differ."""


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def declared(*extras: str) -> list[Requirement]:
    texts = [
        *PROJECT["dependencies"],
        *(t for e in extras for t in PROJECT["optional-dependencies"][e]),
    ]
    return [Requirement(text) for text in texts]


def imported(folder: str) -> dict[str, str]:
    """Top-level packages imported under a folder → one file that does so."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found.update({name.split(".")[0]: str(path.relative_to(ROOT)) for name in names})
    return {n: f for n, f in found.items() if n not in sys.stdlib_module_names and n not in OWN}


def test_the_lock_satisfies_pyproject():
    pins = locked()
    for requirement in declared("cpu", "dev"):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not locked: make lock"
        assert requirement.specifier.contains(version), f"{requirement}, but {version} is locked"
    gpu = {r.name: str(r.specifier) for r in declared("gpu")}
    assert f"=={pins['torchrec']}" == gpu["torchrec"]
    assert f"=={pins['fbgemm-gpu-cpu']}" == gpu["fbgemm-gpu"]


def test_a_cpu_machine_gets_no_cuda_package():
    cuda = re.compile(r"nvidia|cuda|triton|cublas|cudnn|^fbgemm-gpu$")
    assert not [name for name in locked() if cuda.search(name)]
    assert not [r for r in declared("cpu", "dev") if cuda.search(r.name) or r.name == "torchrec"]
    assert "+" not in locked()["torch"]  # the local version is pip's to choose


def test_everything_that_is_imported_is_declared():
    for folder, extras in {
        **dict.fromkeys(("ctrdist", "cluster", "preprocessing", "jobs"), ("gpu",)),
        "tests": ("gpu", "dev"),
    }.items():
        names = {canonicalize_name(requirement.name) for requirement in declared(*extras)}
        missing = {
            n: f
            for n, f in imported(folder).items()
            if canonicalize_name(DISTRIBUTIONS.get(n, n)) not in names
        }
        assert not missing, (
            f"add it to pyproject.toml and docs/decisions.md, then make lock: {missing}"
        )


def test_every_dependency_has_a_reason():
    text = (ROOT / "docs" / "decisions.md").read_text()
    missing = [r.name for r in declared("cpu", "gpu", "dev") if f"`{r.name}`" not in text]
    assert not missing, f"docs/decisions.md gives no reason for {missing}"


def test_the_wheel_contains_only_ctrdist(tmp_path):
    tree = tmp_path / "tree"  # a copy: building leaves its traces beside pyproject.toml
    for name in ("ctrdist", "cluster", "jobs", "preprocessing"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-qq",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(tree),
    ]
    run = subprocess.run(build, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"ctrdist", f"ctrdist-{PROJECT['version']}.dist-info"}
    assert "ctrdist/config/experiment.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
