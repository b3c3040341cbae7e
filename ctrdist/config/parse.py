"""Reads a config dataclass from defaults < preset (YAML) < command line, with jsonargparse.

Options may be written with dashes or underscores. An error names the mistake in one line, and the
nearest key where one is unknown.
"""

import copy
import difflib
import json
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from ctrdist.config.paths import absolute_paths
from ctrdist.errors import ConfigError, UserError

T = TypeVar("T")
_ALLOWED = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
_LISTS = (list, tuple)


def _parser(
    cls: type,
    description: str = "",
    flags: Mapping[str, str] | None = None,
    prog: str | None = None,
) -> ArgumentParser:
    """Returns a parser with an option for each field, and a section for each nested dataclass."""
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
        cls: the config dataclass. Where it has a static method `implied`, that gets the settings of
            all sources, nested, and returns options that replace them.
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
    parser = _parser(cls, description, flags, prog)
    arguments = [_underscored(text) for text in (sys.argv[1:] if argv is None else argv)]
    sources = _sources(arguments, flags)
    if implied := getattr(cls, "implied", None):
        for name, value in implied(_merged(sources)).items():
            arguments += [f"--{name}", value]
    try:
        values = vars(parser.instantiate(parser.parse_args(arguments)))
    except ArgumentError as error:
        raise ConfigError(_message(cls, sources, error)) from error
    switches = {name: bool(values.pop(name)) for name in flags}
    values.pop("config", None)
    if "auto" in values:
        values["auto"] = _not_given(values["auto"], sources)
    return absolute_paths(cls(**values)), switches


def from_dict(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Builds a config from the result of :func:`to_dict`; messages begin with `where`.

    Raises:
        ConfigError: an unknown key or a value of a wrong type.
    """
    parser = _parser(cls)
    try:
        if values.keys() - get_type_hints(cls).keys():  # jsonargparse accepts empty sections
            raise ConfigError(_find_mistake(cls, values))
        built = vars(parser.instantiate(parser.parse_object(values)))
    except (ArgumentError, ConfigError) as error:
        raise ConfigError(f"{where}: {_message(cls, [values], error)}") from error
    return cls(**{key: value for key, value in built.items() if key != "config"})


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the JSON- and YAML-ready values of a config dataclass."""
    return json.loads(json.dumps(asdict(config)))


def to_yaml(config: Any) -> str:
    """Returns the text of a resolved config; parsing it gives an equal config."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def with_settings(values: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of nested values in which some, given by dotted names, are replaced."""
    changed = copy.deepcopy(values)
    for key, value in settings.items():
        *sections, last = key.split(".")
        inner = changed
        for section in sections:
            inner = inner[section]
        inner[last] = value
    return changed


def setting(values: Any, name: str, default: Any = None) -> Any:
    """Returns a nested value, given by dotted name; the default where it is missing or null."""
    for key in name.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return default if values is None else values


def _not_given(names: Sequence[str], sources: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Returns those of the settings that no source gives.

    The config that a run has saved gives all settings that existed then, and no others are chosen
    for it.
    """
    if any("model_name" in source for source in sources):
        return ()
    return tuple(name for name in names if not any(_gives(source, name) for source in sources))


def _gives(source: Any, name: str) -> bool:
    for key in name.split("."):
        source = _loaded(source) if isinstance(source, str) else source
        if not isinstance(source, Mapping) or key not in source:
            return False
        source = source[key]
    return True


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
    return [*presets, _nested(options)]


def _merged(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the values of all sources; later ones win."""
    result: dict[str, Any] = {}
    for source in sources:
        for name, value in source.items():
            value = _loaded(value) if isinstance(value, str) else value
            inner = result.get(name)
            if isinstance(value, Mapping) and isinstance(inner, Mapping):
                value = _merged([inner, value])
            result[name] = value
    return result


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
    found = [mistake for source in sources if (mistake := _find_mistake(cls, source))]
    return str(cause) if cause else found[0] if found else " ".join(str(error).split())


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turns dotted names of options into nested sections: {"a.b": 1} → {"a": {"b": 1}}."""
    result: dict[str, Any] = {}
    for name, value in options.items():
        *sections, key = name.split(".")
        inside = result
        for section in sections:
            if not isinstance(inside.get(section), dict):
                inside[section] = {}
            inside = inside[section]
        inside[key] = value
    return result


def _find_mistake(
    cls: type, values: Mapping[str, Any], root: type | None = None, section: str = ""
) -> str:
    """Returns a message on the first unknown key or value of a wrong type; empty if there is none.

    The values are nested for sections; this one is of `root`, and its name ends in a dot. A text
    may stand for a value of another type, as it does on a command line.
    """
    hints, root = get_type_hints(cls), root or cls
    for key, value in values.items():
        name = f"{section}{key}"
        if key not in hints:
            return f"unknown key '{name}'{_nearest(root, name)}. `--help` lists all keys."
        if found := _in_value(root, hints[key], value, name):
            return found
    return ""


def _in_value(root: type, hint: Any, given: Any, name: str) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return ""
    value = _loaded(given) if isinstance(given, str) and hint is not str else given
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return ""
        kinds = [kind for kind in arguments if kind is not type(None)]
        found = [_in_value(root, kind, given, name) for kind in kinds]
        return "" if "" in found else found[0]
    if is_dataclass(hint) and isinstance(value, Mapping):
        return _find_mistake(hint, value, root, f"{name}.")  # type: ignore[arg-type]
    if origin is dict and isinstance(value, Mapping):
        return _first(_in_value(root, arguments[1], v, f"{name}.{k}") for k, v in value.items())
    if origin in _LISTS and isinstance(value, _LISTS):
        items = enumerate(value)
        return _first(_in_value(root, arguments[0], v, f"{name}[{i}]") for i, v in items)
    if _fits(hint, value) or _fits(hint, given):
        return ""
    return f"{name}: got {str(given)!r}; allowed: {_allowed(hint)}"


def _fits(hint: Any, value: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return type(value) in (int, float)
    if hint is str:
        return value is not None and not isinstance(value, (dict, *_LISTS))
    return hint in _ALLOWED and type(value) is hint


def _allowed(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(map(repr, get_args(hint)))
    return "a list in brackets" if get_origin(hint) in _LISTS else _ALLOWED.get(hint, "a mapping")


def _loaded(text: str) -> Any:
    """Returns the value that a text stands for on a command line."""
    try:
        value = yaml.safe_load(text)
        return float(value) if isinstance(value, str) else value  # YAML reads 1e-3 as a text
    except (ValueError, yaml.YAMLError):
        return text


def _first(messages: Iterator[str]) -> str:
    return next(filter(None, messages), "")


def _nearest(root: type, name: str) -> str:
    """Returns the nearest key: by the whole name, or else by its last part in any section."""
    name, known = re.sub(r"\[\d+\]", "", name), list(_keys(root))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        last = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        near = difflib.get_close_matches(name.rsplit(".", 1)[-1], last, n=1, cutoff=0.6)
        close = [last[key] for key in near]
    return f"; the nearest is '{close[0]}'" if close else ""


def _keys(cls: Any, section: str = "") -> Iterator[str]:
    """Yields the dotted names of all settings, also of those of a list's items."""
    for name, hint in get_type_hints(cls).items():
        yield section + name
        pending = [hint]
        while pending:
            kind = pending.pop()
            pending += get_args(kind)
            if is_dataclass(kind):
                yield from _keys(kind, f"{section}{name}.")
