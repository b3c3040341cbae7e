"""Reads a config dataclass from defaults < preset (YAML) < command line, with jsonargparse.

Options may be written with dashes or underscores. An error names the mistake in one line, and the
nearest key where one is unknown.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from ctrdist.config.mistakes import find_mistake, nested
from ctrdist.config.paths import absolute_paths
from ctrdist.errors import ConfigError, UserError

T = TypeVar("T")


def build_parser(
    cls: type,
    description: str = "",
    flags: Mapping[str, str] | None = None,
    prog: str | None = None,
) -> ArgumentParser:
    """Returns the parser of a config dataclass.

    Args:
        cls: the dataclass; each field becomes an option, each nested dataclass a section.
        description: shown by --help.
        flags: boolean switches apart from the config: name → help.
        prog: name in the usage line.
    """
    # --help shows the docstring under each field
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=prog,
        usage="%(prog)s [--config PRESET.yaml] [--option value …]",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action="config", help="YAML preset; options after it override it."
    )
    for name, text in (flags or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_class_arguments(cls, None)
    return parser


def parse(
    cls: type[T],
    argv: Sequence[str] | None = None,
    *,
    description: str = "",
    flags: Mapping[str, str] | None = None,
    prog: str | None = None,
) -> tuple[T, dict[str, bool]]:
    """Reads a config from the command line.

    Args:
        cls: the config dataclass.
        argv: arguments; sys.argv[1:] when None.
        description: shown by --help.
        flags: boolean switches apart from the config: name → help.
        prog: name in the usage line.

    Returns:
        The config, with absolute paths, and the value of each flag.

    Raises:
        ConfigError: an unknown key, a value of a wrong type, a missing file, or a relative path in
            a submitted job.
    """
    flags = flags or {}
    parser = build_parser(cls, description, flags, prog)
    arguments = [_underscored(text) for text in (sys.argv[1:] if argv is None else argv)]
    sources = _sources(arguments, flags)
    try:
        parsed = parser.parse_args(arguments)
        built = parser.instantiate(parsed)
    except ArgumentError as error:
        raise ConfigError(_message(cls, sources, error)) from error
    switches = {name: bool(parsed[name]) for name in flags}
    values = {key: value for key, value in vars(built).items() if key not in {*flags, "config"}}
    return absolute_paths(cls(**values)), switches


def from_dict(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Builds a config from the result of :func:`to_dict`.

    Args:
        cls: the config dataclass.
        values: key → value, nested for sections.
        where: origin of the values, with which messages begin.

    Raises:
        ConfigError: an unknown key or a value of a wrong type.
    """
    parser = build_parser(cls)
    try:
        if values.keys() - get_type_hints(cls).keys():  # jsonargparse accepts empty sections
            raise ConfigError(find_mistake(cls, values))
        built = parser.instantiate(parser.parse_object(values))
    except ArgumentError as error:
        raise ConfigError(f"{where}: {_message(cls, [values], error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return cls(**{key: value for key, value in vars(built).items() if key != "config"})


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the JSON- and YAML-ready values of a config dataclass."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return value

    return plain(asdict(config))


def to_yaml(config: Any) -> str:
    """Returns the text of a resolved config; parsing it gives an equal config."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def _underscored(argument: str) -> str:
    """--run-name=a-b → --run_name=a-b."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _sources(arguments: Sequence[str], flags: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """Returns the values of presets and of the options, as nested sections.

    Raises:
        ConfigError: a preset does not exist.
    """
    presets: list[Mapping[str, Any]] = []
    options: dict[str, Any] = {}
    pending = list(arguments)
    while pending:
        name, equals, value = pending.pop(0).partition("=")
        if not name.startswith("--") or name[2:] in {*flags, "help", "print_config"}:
            continue
        if not equals and pending:
            value = pending.pop(0)
        if name == "--config":
            presets.append(_preset(value))
        else:
            options[name[2:]] = value
    return [*presets, nested(options)]


def _preset(path: str) -> Mapping[str, Any]:
    if "\n" in path or "{" in path:
        text = path
    elif Path(path).is_file():
        text = Path(path).read_text()
    else:
        near = difflib.get_close_matches(
            path, [str(there) for there in Path(path).parent.glob("*.yaml")], n=3, cutoff=0.3
        )
        hint = f" Presets there: {', '.join(near)}." if near else ""
        raise ConfigError(f"--config {path}: no such file.{hint}")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:  # jsonargparse names the line
        values = {}
    return values if isinstance(values, dict) else {}


def _message(cls: type, sources: Sequence[Mapping[str, Any]], error: BaseException) -> str:
    """Returns our words for an error of jsonargparse, or else its own in one line."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    found = [mistake for source in sources if (mistake := find_mistake(cls, source))]
    return str(cause) if cause else found[0] if found else " ".join(str(error).split())
