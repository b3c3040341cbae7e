"""Finds the mistake in settings that jsonargparse has refused, to name it in our own words."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

_ALLOWED = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
_LISTS = (list, tuple)


def find_mistake(cls: type, values: Mapping[str, Any]) -> str:
    """Returns a message on the first unknown key or value of a wrong type; empty if there is none.

    Args:
        cls: the dataclass of the settings.
        values: key → value, nested for sections. A text may stand for a value of another type, as
            it does on a command line.
    """
    return _in_section(cls, cls, values, "")


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
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


def _in_section(root: type, cls: type, values: Mapping[str, Any], section: str) -> str:
    hints = get_type_hints(cls)
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
        return _in_section(root, hint, value, f"{name}.")  # type: ignore[arg-type]
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
