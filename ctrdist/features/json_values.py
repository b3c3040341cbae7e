"""JSON's scalars as texts, and lists that are written as text."""

import ast
import json
import re
import warnings
from decimal import Decimal, InvalidOperation
from typing import Any

_ITEM = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[A-Za-z]+|[-+.\w]+"""
_PYTHON_LIST = re.compile(rf"\s*\[\s*(?:(?:{_ITEM})\s*(?:,\s*(?:{_ITEM})\s*)*)?,?\s*\]\s*")
_PYTHON_ITEM = re.compile(_ITEM)
_PYTHON_WORDS = {"None": None, "nan": None, "NaN": None, "True": True, "False": False}
_WHOLE = 2**63
_INFINITE = {"Infinity": "inf", "-Infinity": "-inf"}


class Number(str):
    """A JSON number as it is written."""


class Fraction(Number):
    """A JSON number that is written with a point or an exponent, or NaN or Infinity."""


DECODER = json.JSONDecoder(parse_int=Number, parse_float=Fraction, parse_constant=Fraction)
"""Keeps the text of numbers."""


def json_text(value: Any) -> str | None:
    """The text of a scalar that is a category; None for null and NaN.

    A whole number is its integer's text: 5.0 is 5, and -0 is 0. Other numbers are as written.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Fraction):
        return _fraction_text(value)
    return "0" if isinstance(value, Number) and value == "-0" else value


def parse_list(text: str) -> list[str | None] | None:
    """The texts of a list that is written as text, [16, 17] or ["a", "b"]; None for no such list.

    Python's form, ['a', None], is one too. Items side by side without a comma, as numpy prints
    them, are refused: Python would read two texts as one.
    """
    try:
        found = DECODER.decode(text)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except (json.JSONDecodeError, UnicodeEncodeError, RecursionError):
        found = _python_list(text)
    if not isinstance(found, list) or any(isinstance(item, (dict, list)) for item in found):
        return None
    return [json_text(item) for item in found]


def _python_list(text: str) -> list[Any] | None:
    if not _PYTHON_LIST.fullmatch(text):
        return None
    items: list[Any] = []
    for item in _PYTHON_ITEM.findall(text):
        if item in _PYTHON_WORDS:
            items.append(_PYTHON_WORDS[item])
        elif item[0] in "'\"":
            try:
                with warnings.catch_warnings(action="ignore"):  # of escapes that Python lacks
                    items.append(ast.literal_eval(item))
                items[-1].encode()
            except (SyntaxError, ValueError):
                return None
        else:
            try:
                items.append(DECODER.decode(item))
            except json.JSONDecodeError:
                return None
    return items


def _fraction_text(text: str) -> str | None:
    if text == "NaN":
        return None
    try:
        number = Decimal(text)
        if number.is_finite() and abs(number) < _WHOLE and number == int(number):
            return str(int(number))
    except InvalidOperation:  # an exponent beyond those of Decimal
        pass
    return _INFINITE.get(text, text)
