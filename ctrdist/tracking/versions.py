"""The environment of a run: versions of packages, commit, host, command."""

from __future__ import annotations

import getpass
import os
import platform
import shlex
import socket
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import ctrdist

SHOWN = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "ray", "mlflow", "pyarrow", "numpy")
_ROOT = Path(__file__).resolve().parents[2]
_DESCRIBE = ("git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")


def package_versions() -> dict[str, str]:
    """Versions of the installed packages, found without importing them."""
    versions = {"python": platform.python_version(), "ctrdist": ctrdist.__version__}
    for package in SHOWN:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def git_commit(root: Path = _ROOT) -> str | None:
    """Commit of the project, with `-dirty` appended if tracked files differ from it.

    CTRDIST_COMMIT takes precedence: a launcher that copies the project without its history sets it.
    Without git, or if the root is not that of a repository, the result is None.
    """
    if given := os.environ.get("CTRDIST_COMMIT"):
        return given
    if (root / ".git").exists():  # A repository further up is another project.
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.check_output(
                _DESCRIBE, cwd=root, stderr=subprocess.DEVNULL, text=True, timeout=5
            ).strip()
    return None


def environment_tags() -> dict[str, str]:
    """Tags of every run, among them those that MLflow's own pages show."""
    tags = {f"version.{package}": version for package, version in package_versions().items()}
    tags |= {"host": socket.gethostname(), "platform": platform.platform()}
    tags |= {"command": shlex.join(sys.argv)}
    tags |= {"mlflow.source.name": sys.argv[0], "mlflow.source.type": "LOCAL"}
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):  # A user id without a name, as in containers.
        tags["mlflow.user"] = str(os.getuid())
    if commit := git_commit():
        tags["git.commit"] = commit
        tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
    return tags
