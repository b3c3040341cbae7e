"""`make setup` decides where torch comes from, and which Python will do, before it fetches much."""

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
TORCH = re.search(r"^torch==(.*)$", LOCK, re.M)[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
x86_linux = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="only there the plain wheel of torch is built for CUDA",
)


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs make with a pip that sees no index, no configuration and no folder of wheels."""
    blind = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    return subprocess.run(
        ["make", "-s", *arguments],
        cwd=ROOT,
        env=os.environ | blind | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A directory with bin/python, which is this Python with its pip."""
    executable(tmp_path / "bin" / "python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    return tmp_path


@x86_linux
def test_torch_is_the_cpu_build_where_pip_finds_it(venv, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    info = f"torch-{TORCH}+cpu.dist-info"
    with zipfile.ZipFile(wheels / f"torch-{TORCH}+cpu-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Name: torch\nVersion: {TORCH}+cpu\n")
    done = make("torch-source", f"VENV={venv}", PIP_FIND_LINKS=str(wheels))
    assert done.stdout.strip() == f"torch: the CPU build {TORCH}+cpu, which pip finds."


@x86_linux
def test_torch_comes_by_uv_where_pip_finds_no_cpu_build(venv):
    seen = venv / "seen"
    executable(venv / "bin" / "uv", f'#!/bin/sh\necho "$@" > "{seen}"\n')
    done = make("torch-source", f"VENV={venv}")
    assert "uv fetches it from PyTorch's own index" in done.stdout
    assert "--dry-run" in seen.read_text(), "nothing is fetched before the choice is made"
    assert f"--torch-backend cpu torch=={TORCH}" in seen.read_text()


@x86_linux
@pytest.mark.parametrize("uv", ["#!/bin/sh\nexit 1\n", None], ids=["uv fails", "there is no uv"])
def test_torch_is_the_default_build_where_nothing_else_is_found(venv, uv):
    if uv:
        executable(venv / "bin" / "uv", uv)
    done = make("torch-source", f"VENV={venv}")
    assert done.returncode == 0
    assert "downloads 2.7 GB" in done.stdout


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0)])
def test_a_python_without_wheels_is_refused_before_anything_is_made(tmp_path, version):
    code = (
        f"#!{sys.executable}\nimport sys\nsys.version_info = {version}\n"
        "if sys.argv[1] == '-c':\n    exec(sys.argv[2])\n"
        f"print('Python {version[0]}.{version[1]}.{version[2]}')\n"
    )
    python = executable(tmp_path / "python", code)
    venv = tmp_path / "venv"
    done = make("setup", f"VENV={venv}", f"PYTHON={python}")
    assert done.returncode != 0
    assert f"Python {version[0]}.{version[1]}.{version[2]}" in done.stderr
    assert "3.11, 3.12 and 3.13 only" in done.stderr
    assert not venv.exists()
