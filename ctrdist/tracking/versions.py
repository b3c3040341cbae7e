"""The environment of a run: versions of packages, commit, host, command."""

from __future__ import annotations

import getpass
import os
import platform
import shlex
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "ctrdist",
    "torch",
    "torchrec",
    "fbgemm-gpu",
    "fbgemm-gpu-cpu",
    "ray",
    "mlflow",
    "pyarrow",
    "numpy",
)
_ROOT = Path(__file__).resolve().parents[2]


def package_versions() -> dict[str, str]:
    """Versions of the installed packages, found without importing them."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package == "ctrdist":
                import ctrdist

                versions[package] = ctrdist.__version__
    return versions


def git_commit(root: Path = _ROOT) -> str | None:
    """Commit of the project, with `-dirty` appended if tracked files differ from it.

    CTRDIST_COMMIT takes precedence: a launcher that copies the project without its history sets it.

    Args:
        root: the project's root.

    Returns:
        The commit; None without git, or if the root is not that of a repository.
    """
    given = os.environ.get("CTRDIST_COMMIT")
    if given:
        return given
    if not (root / ".git").exists():  # A repository further up is another project.
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changes else commit


def environment_tags() -> dict[str, str]:
    """Tags of every run, among them those that MLflow's own pages show."""
    tags = {f"version.{package}": version for package, version in package_versions().items()}
    tags["host"] = socket.gethostname()
    tags["platform"] = platform.platform()
    tags["command"] = shlex.join(sys.argv)
    tags["mlflow.source.name"] = sys.argv[0]
    tags["mlflow.source.type"] = "LOCAL"
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):  # A user id without a name, as in containers.
        tags["mlflow.user"] = str(os.getuid())
    commit = git_commit()
    if commit:
        tags["git.commit"] = commit
        tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
    return tags


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
