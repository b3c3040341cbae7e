"""What import-linter cannot hold: submodules of other packages, completeness, slow imports."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

TORCHREC_DISTRIBUTED = ("sharding", "optim", "checkpoint", "export", "training")
"""Packages of ctrdist that may import torchrec.distributed."""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of everything that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def importing(folder: str, module: str) -> list[str]:
    return [
        str(path.relative_to(ROOT))
        for path in sources(folder)
        if any(f"{name}.".startswith(f"{module}.") for name in imports(path))
    ]


def test_imports_are_found_wherever_they_stand(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "def f():\n    from torchrec import distributed\n    import torch.distributed as d\n"
    )
    assert imports(path) == {"torchrec.distributed", "torch.distributed"}


def test_torchrec_distributed_is_imported_only_where_it_may_be():
    allowed = tuple(f"ctrdist/{name}/" for name in TORCHREC_DISTRIBUTED)
    found = [f for f in importing("ctrdist", "torchrec.distributed") if not f.startswith(allowed)]
    assert not found, f"only {', '.join(allowed)} may import torchrec.distributed"


def test_models_and_losses_are_single_device_code():
    for folder in ("ctrdist/models", "ctrdist/losses"):
        assert not importing(folder, "torch.distributed")
        assert not importing(folder, "ctrdist.distributed.process_group")


def test_every_package_of_ctrdist_has_a_layer():
    layers = PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip("() ") for layer in layers for name in layer.split("|")}
    there = {
        f"ctrdist.{path.stem}"
        for path in (ROOT / "ctrdist").iterdir()
        if path.name != "__init__.py" and (path.suffix == ".py" or any(path.glob("*.py")))
    }
    assert there <= named, "add it to the layers in pyproject.toml and docs/architecture.md"


@pytest.mark.parametrize(
    "module",
    [
        "ctrdist.config.parse",
        "ctrdist.config.experiment",
        *(f"ctrdist.models.{name}.settings" for name in ("dlf", "tf4ctr", "dual_attention")),
    ],
)
def test_settings_load_without_the_slow_libraries(module):
    """--help must answer at once; importing torch alone takes 1.6 to 2 s."""
    slow = {"torch", "torchrec", "ray", "mlflow", "pandas", "sklearn", "matplotlib"}
    code = f"import sys, {module}; print(*sorted({slow} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def test_the_library_loads_without_ray_and_mlflow():
    """A bare GPU machine has neither: there the trainer runs under torchrun."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sources("ctrdist")
        if path.name not in ("__init__.py", "triton_kernels.py")  # no CPU machine has Triton
        and "tracking" not in path.parts
    ]
    code = (
        "import sys; sys.modules['ray'] = sys.modules['mlflow'] = None\n"  # makes their import fail
        f"import importlib; [importlib.import_module(name) for name in {modules}]"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
