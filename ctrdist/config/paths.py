"""Settings that are paths. They mean the same in every process, whatever its directory is."""

import os
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ctrdist.errors import ConfigError

T = TypeVar("T")

IS_PATH = {"path": True}
"""Metadata of a dataclass field that holds a path or URL, or a list of them."""


def runs_directory() -> str:
    """The default of a job's `runs`: CTRDIST_RUNS, or runs/ in the current directory."""
    return os.environ.get("CTRDIST_RUNS", "runs")


def absolute_paths(config: T, prefix: str = "--") -> T:
    """Returns a dataclass whose fields of metadata IS_PATH, at any depth, are absolute or URLs.

    Raises:
        ConfigError: a path is relative, and this process is a job of `ray job submit`.
    """
    new: dict[str, Any] = {}
    for each in fields(config):  # type: ignore[arg-type]
        value, option = getattr(config, each.name), f"{prefix}{each.name}"
        if is_dataclass(value):
            new[each.name] = absolute_paths(value, f"{option}.")
        elif each.metadata.get("path") and isinstance(value, list):
            new[each.name] = [_absolute(path, option) for path in value]
        elif each.metadata.get("path"):
            new[each.name] = _absolute(value, option)
    return replace(config, **new)  # type: ignore[type-var]


def _absolute(path: str, option: str) -> str:
    if not path or "://" in path:
        return path
    expanded = Path(path).expanduser()
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and "_ray_pkg_" in os.getcwd()
    if submitted and not expanded.is_absolute():
        raise ConfigError(
            f"{option} {path}: a relative path in a submitted job means Ray's temporary copy of "
            "the working directory, which is deleted. Give an absolute path or s3://."
        )
    return str(expanded.absolute())
