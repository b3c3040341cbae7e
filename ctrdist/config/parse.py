"""Reads a config dataclass from defaults < preset (YAML) < command line, with jsonargparse.

Options may be written with dashes or underscores. An unknown key is an error that names the
nearest.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from ctrdist.errors import ConfigError

T = TypeVar("T")

_UNKNOWN = re.compile(
    r"[Uu]nrecognized arguments: (?P<argument>\S+)"
    r"|does not accept (?:\w+ )?(?:option|key)s? '(?P<key>[\w.\-]+)'"
    r"|Option '(?P<option>[\w.\-]+)' is not accepted"
)
_KEYS = re.compile(r'Parser key "(?P<key>[\w.]+)": ')
_EXPECTED = re.compile(
    r"Expected an? (?:<class '(?P<type>\w+)'>|typing\.Literal\[(?P<values>.*?)\])\. "
    r"Got value: (?P<given>.*)$"
)
_GROUP = re.compile(r"Group '(?P<group>[\w.]+)'")


_OPTIONAL = re.compile(r"^.* Errors: - (?P<errors>.*) - Expected an? <class 'NoneType'>.*$")
"""What is said of a section that may be null: what is wrong with the section, and that it is not
null."""
_INNER = re.compile(r"[\w.]+: ")
_TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list in brackets",
}


class _Parser(ArgumentParser):
    """jsonargparse with errors of one message, and the nearest key where one is unknown."""

    item_keys: Sequence[str] = ()
    """Keys of the items of lists, which are no options of their own."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = " ".join(str(message).split())
        where = ".".join(_KEYS.findall(text))
        text = _OPTIONAL.sub(r"\g<errors>", _KEYS.sub("", text))
        match = _UNKNOWN.search(text)
        if match:
            given = match["argument"] or match["key"] or match["option"]
            given = given.lstrip("-").split("=")[0]
            group = _GROUP.search(text)
            given = (
                f"{group['group']}.{given}"
                if group and not given.startswith(group["group"] + ".")
                else given
            )
            text = f"unknown key '{given}'{self._nearest(given)}. `--help` lists all keys."
        else:
            expected = _EXPECTED.search(text)
            if expected:
                allowed = expected["values"] or _TYPES.get(expected["type"], expected["type"])
                text = f"got {expected['given']!r}; allowed: {allowed}"
            # an item of a list was read by a parser of its own, whose message begins with its key
            joint = "." if _INNER.match(text) else ": "
            text = f"{where}{joint}{text}" if where else text
        raise ConfigError(text) from ex

    def _nearest(self, given: str) -> str:
        known = [a.dest for a in self._actions if a.dest and a.dest not in ("help",)]
        known += self.item_keys
        wanted = given.replace("-", "_")
        close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.6)
        if not close:  # the right name in the wrong section, or the section left out
            leaf = {k: k.rsplit(".", 1)[-1] for k in known}
            near = difflib.get_close_matches(
                wanted.rsplit(".", 1)[-1], list(leaf.values()), n=1, cutoff=0.6
            )
            close = [k for k, name in leaf.items() if near and name == near[0]][:1]
        return f"; the nearest is '{close[0]}'" if close else ""


def _normalise(argv: Sequence[str]) -> list[str]:
    """--run-name X → --run_name X; values are left alone."""

    def option(text: str) -> str:
        if not text.startswith("--"):
            return text
        name, equals, value = text.partition("=")
        return "--" + name[2:].replace("-", "_") + equals + value

    return [option(text) for text in argv]


def build_parser(
    cls: type, description: str, flags: dict[str, str], prog: str | None = None
) -> ArgumentParser:
    """The parser of a config dataclass.

    Args:
        cls: the dataclass; each field becomes an option, each nested dataclass a section.
        description: shown by --help.
        flags: boolean switches beside the config: name → help.
        prog: name in the usage line.
    """
    set_parsing_settings(
        docstring_parse_attribute_docstrings=True
    )  # --help shows what stands under each field
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [--config PRESET.yaml] [--option value …]",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action="config", help="YAML preset; the options after it win over it."
    )
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_class_arguments(cls, None)
    parser.item_keys = _item_keys(cls)
    return parser


def _item_keys(cls: type) -> list[str]:
    """The fields of all dataclasses that stand in lists of the class, at any depth."""
    found: dict[str, None] = {}
    pending: list[tuple[Any, bool]] = [(cls, False)]
    seen = set()
    while pending:
        kind, inside = pending.pop()
        if isinstance(kind, type) and is_dataclass(kind) and kind not in seen:
            seen.add(kind)
            if inside:
                found.update(dict.fromkeys(field.name for field in fields(kind)))
            pending.extend((hint, inside) for hint in get_type_hints(kind).values())
        inside = inside or get_origin(kind) in (list, tuple)
        pending.extend((part, inside) for part in get_args(kind))
    return list(found)


def parse(
    cls: type[T],
    argv: Sequence[str] | None = None,
    *,
    description: str = "",
    flags: dict[str, str] | None = None,
    prog: str | None = None,
) -> tuple[T, dict[str, bool]]:
    """Reads a config from the command line.

    Args:
        cls: the config dataclass.
        argv: arguments; sys.argv[1:] when None.
        description: shown by --help.
        flags: boolean switches beside the config: name → help.
        prog: name in the usage line.

    Returns:
        The config, and the value of each flag.

    Raises:
        ConfigError: an unknown key (the nearest is named), a value of the wrong type, a missing
            file.
    """
    flags = flags or {}
    parser = build_parser(cls, description, flags, prog)
    arguments = _normalise(sys.argv[1:] if argv is None else argv)
    _check_preset_paths(arguments)
    try:
        parsed: Namespace = parser.parse_args(arguments)
        built = parser.instantiate(parsed)
    except SystemExit as leave:
        if leave.code in (0, None):
            raise
        raise ConfigError("the command line could not be read") from leave
    switches = {name: bool(parsed[name]) for name in flags}
    values = {key: value for key, value in vars(built).items() if key not in {*flags, "config"}}
    return cls(**values), switches


def _check_preset_paths(arguments: Sequence[str]) -> None:
    for index, text in enumerate(arguments):
        name, equals, value = text.partition("=")
        if name != "--config":
            continue
        path = value if equals else (arguments[index + 1] if index + 1 < len(arguments) else "")
        if path and not Path(path).is_file() and "\n" not in path and "{" not in path:
            there = (
                sorted(str(p) for p in Path(path).parent.glob("*.yaml"))
                if Path(path).parent.is_dir()
                else []
            )
            near = difflib.get_close_matches(path, there, n=3, cutoff=0.3)
            hint = f" Presets there: {', '.join(near)}." if near else ""
            raise ConfigError(f"--config {path}: no such file.{hint}")


def from_dict(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Builds a config from what :func:`to_dict` gave.

    Raises:
        ConfigError: unknown keys or wrong types; the message begins with `where`.
    """
    parser = build_parser(cls, "", {})
    try:
        for key in values.keys() - get_type_hints(cls).keys():
            parser.error(f"unrecognized arguments: {key}")  # of empty mappings it says nothing
        built = parser.instantiate(parser.parse_object(values))
    except (ConfigError, SystemExit) as error:
        raise ConfigError(f"{where}: {error}") from error
    return cls(**{key: value for key, value in vars(built).items() if key != "config"})


def to_dict(config: Any) -> dict[str, Any]:
    """JSON- and YAML-ready values of a config dataclass."""
    from dataclasses import asdict

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return value

    return plain(asdict(config))


def to_yaml(config: Any) -> str:
    """The text of a resolved config: parsing it again gives an equal config."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)
