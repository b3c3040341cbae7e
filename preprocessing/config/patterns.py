"""Entries of `columns` that stand for several columns, and the defaults of roles."""

import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from ctrdist.config.parse import from_dict
from ctrdist.errors import ConfigError
from ctrdist.features.columns import ColumnConfig, Role

WILD = "*"
"""It stands for any text in the name of a column."""
_RANGE = re.compile(r"(?s)(.*?)(\d+)\.\.(.*?)(\d+)")
_MOST = 100_000
_EXAMPLE = "write it like C1..C26, or day_08..day_12"


def implied_options(given: Mapping[str, Any]) -> dict[str, str]:
    """The options that replace those given, with ranges written out and the defaults of roles.

    Args:
        given: settings as YAML has them; where they are malformed, they are left to the parser.

    Raises:
        ConfigError: a range that is none, or defaults that no column can have.
    """
    columns, joins = given.get("columns"), given.get("joins") or []
    defaults = given.get("defaults") or {}
    if not isinstance(defaults, Mapping) or not all(map(_is_table, [columns, *_tables(joins)])):
        return {}
    for role, settings in defaults.items():
        _check_defaults(role, settings)
    tables = {"columns": write_out(columns or [], defaults)}
    if joins:
        tables["joins"] = [
            join | {"columns": write_out(join["columns"], defaults)} for join in joins
        ]
    if not defaults and all(tables[name] == given.get(name) for name in tables):
        return {}
    return {name: json.dumps(table) for name, table in tables.items()} | {"defaults": "{}"}


def write_out(
    columns: Iterable[Mapping[str, Any]], defaults: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The entries with one for each name of a range, and with the defaults of their roles."""
    return [
        {**defaults.get(column.get("role", "categorical"), {}), **column, "name": name}
        for column in columns
        for name in names_of_range(column["name"])
    ]


def match_columns(
    columns: Sequence[ColumnConfig], names: Callable[[], Sequence[str]], where: str
) -> list[ColumnConfig]:
    """The columns with one for each of a file's names that an entry with `*` matches.

    An entry with the very name of a column goes before patterns. A column without a name matches
    none.

    Args:
        columns: entries of the YAML, without ranges.
        names: reads the names of the file's columns; called only where there is a pattern.
        where: the file, for messages.

    Raises:
        ConfigError: a pattern matches no column, or two match the same.
    """
    if not any(WILD in column.name for column in columns):
        return list(columns)
    found = list(dict.fromkeys(filter(None, names())))
    exact = {column.name for column in columns}
    taken: dict[str, str] = {}
    result = []
    for column in columns:
        if WILD not in column.name or column.name in found:
            result.append(column)
            continue
        pattern = re.compile(fnmatch.translate(column.name.replace("[", "[[]").replace("?", "[?]")))
        matches = [name for name in found if name not in exact and pattern.match(name)]
        if not matches:
            raise ConfigError(
                f"columns: {column.name} matches no column of {where} that has no entry of its own "
                f"(it has {_shown(found)}). Correct it, or remove it."
            )
        for name in matches:
            if name in taken:
                raise ConfigError(
                    f"columns: {taken[name]} and {column.name} both match the column {name}. Give "
                    "it an entry of its own, which goes before patterns, or narrow one of them."
                )
            taken[name] = column.name
            result.append(replace(column, name=name))
    return result


def names_of_range(name: Any) -> list[Any]:
    """The names of a range such as C1..C26; any other name by itself.

    Raises:
        ConfigError: a range of no columns, or of too many.
    """
    match = _RANGE.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        return [name]
    before, first, after, last = match.groups()
    if after not in ("", before):
        raise ConfigError(f"columns: {name} is a range of two different names; {_EXAMPLE}.")
    begin, end = int(first), int(last)
    if not begin <= end < begin + _MOST:
        raise ConfigError(
            f"columns: {name} is a range of {max(0, end - begin + 1):,} columns; give 1 to "
            f"{_MOST:,}, and {_EXAMPLE}."
        )
    width = len(first) if first.startswith("0") else 0
    return [f"{before}{number:0{width}d}" for number in range(begin, end + 1)]


def _check_defaults(role: Any, settings: Any) -> None:
    where = f"defaults.{role}"
    if role not in get_args(Role):
        raise ConfigError(
            f"defaults: {role} is no role; give settings for one of {', '.join(get_args(Role))}."
        )
    if not isinstance(settings, Mapping) or {"name", "role"} & settings.keys():
        raise ConfigError(
            f"{where}: got {settings}; give settings of its columns other than name and role, such "
            "as {min_count: 10}."
        )
    from_dict(ColumnConfig, {"name": "x", "role": role, **settings}, where)


def _tables(joins: Any) -> list[Any]:
    is_list = isinstance(joins, list) and all(isinstance(join, Mapping) for join in joins)
    return [join.get("columns") for join in joins] if is_list else [joins]


def _is_table(columns: Any) -> bool:
    """True for a list of entries with names."""
    return columns is None or (
        isinstance(columns, list)
        and all(isinstance(column, Mapping) and "name" in column for column in columns)
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 12 else [*names[:6], "…", *names[-2:]])
