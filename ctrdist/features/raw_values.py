"""Reads raw values, of any Arrow type that a log may have, as texts, numbers, seconds or lists.

Each function takes (n,) values, null where missing. It returns what it read, null or NaN where a
value is missing or bad, and (n,) bool: which values are bad.
"""

# n values, V distinct ones

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ctrdist.features.columns import ColumnConfig, is_iso8601
from ctrdist.features.json_values import parse_list

UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Unit of a timestamp → how many make a second."""
MOST = float(np.finfo(np.float32).max)
"""Largest number that is taken: a larger one could not be stored as float32."""
_FAILURES = (pa.ArrowInvalid, pa.ArrowNotImplementedError)
_WORDS = {"true": 1.0, "false": 0.0}
_YAML_WORDS = {True: ("yes", "on"), False: ("no", "off")}
_WHOLE = 2.0**63
"""Whole floats below this are exact as int64."""
_DAY = 86_400
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = _EPOCH.replace(tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_NOW = ("now", "today")
"""Texts that pandas takes for the present time, whatever the format."""


def plain_array(array: pa.Array) -> pa.Array:
    """The values without dictionaries, extension types, views and large offsets."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return plain_array(array.storage)
    if pa.types.is_dictionary(kind):
        return plain_array(array.dictionary_decode())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string())
    if pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return array.cast(pa.list_(kind.value_type))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return pa.array(array.to_pylist(), pa.list_(kind.value_type))
    return array


def read_texts(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The text of each value: a whole float is its integer's, NaN is missing.

    Bytes that are no UTF-8 are their hexadecimal digits. Lists, structs and maps are bad.
    """
    array = plain_array(array)
    good = np.zeros(len(array), bool)
    if pa.types.is_string(array.type):
        return array, good
    if pa.types.is_floating(array.type):
        return _float_texts(array), good
    if pa.types.is_decimal(array.type):
        return _map_distinct(array, _decimal_texts, pa.string()), good
    if _is_binary(array.type):
        return _map_distinct(array, _binary_texts, pa.string()), good
    try:
        return array.cast(pa.string()), good
    except _FAILURES:
        return pa.nulls(len(array), pa.string()), array.is_valid().to_numpy(zero_copy_only=False)


def read_numbers(array: pa.Array, *, whole: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(n,) float64 of numbers, of their texts, and of true and false as 1 and 0.

    Numbers that are infinite or larger than float32 allows are bad, as are those with a fraction
    where `whole`, and texts of integers that are not written as such.
    """
    array = plain_array(array)
    kind = array.type
    if _is_binary(kind):
        array = read_texts(array)[0]
    if pa.types.is_string(array.type):
        numbers, bad = cast_where_possible(array, pa.int64() if whole else pa.float64())
        values = numbers.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        if bad.any():
            found = _map_distinct(array.filter(pa.array(bad)), _words, pa.float64())
            found = found.to_numpy(zero_copy_only=False)
            values, bad = values.copy(), bad.copy()
            values[bad], bad[bad] = found, np.isnan(found)
    elif pa.types.is_null(kind) or pa.types.is_boolean(kind) or _is_number(kind):
        values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        bad = np.zeros(len(array), bool)
    else:
        bad = array.is_valid().to_numpy(zero_copy_only=False)
        return np.full(len(array), np.nan), bad
    bad = bad | (np.abs(values) > MOST)
    if whole:
        bad |= (values != np.trunc(values)) & ~np.isnan(values)
    return values, bad


def read_integers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(n,) int64 of numbers or their texts, rounded down; a missing one is bad."""
    whole, bad = cast_where_possible(array, pa.int64())
    values = whole.fill_null(0).to_numpy().copy()
    if bad.any():
        numbers, _ = read_numbers(array.filter(pa.array(bad)))
        fits = np.abs(numbers) < _WHOLE
        values[bad] = np.floor(np.where(fits, numbers, 0.0)).astype(np.int64)
        bad[bad] = ~fits
    return values, bad | array.is_null().to_numpy(zero_copy_only=False)


def read_seconds(array: pa.Array, column: ColumnConfig) -> tuple[np.ndarray, np.ndarray]:
    """(n,) int64 whole seconds since 1970, rounded down, of a timestamp column.

    Arrow's own dates and times are taken as they are. Other values are read by the column's format,
    or as numbers in its unit. A missing value is bad.
    """
    array = plain_array(array)
    kind, per_second, seconds_each = array.type, UNITS[column.unit], 1
    if pa.types.is_timestamp(kind):
        array, per_second = array.cast(pa.int64()), UNITS[kind.unit]
    elif pa.types.is_date32(kind):
        array, per_second, seconds_each = array.cast(pa.int32()), 1, _DAY
    elif pa.types.is_date64(kind):
        array, per_second = array.cast(pa.int64()), UNITS["ms"]
    elif column.format is not None:
        texts, form = read_texts(array)[0], column.format
        array, per_second = _map_distinct(texts, lambda t: parse_times(t, form), pa.int64()), 1
    elif pa.types.is_temporal(kind):  # a duration, or a time without a date
        array = pa.nulls(len(array), pa.int64())
    values, bad = read_integers(array)
    return values // per_second * seconds_each, bad


def read_labels(array: pa.Array, column: ColumnConfig) -> tuple[np.ndarray, np.ndarray]:
    """(n,) float32 0 or 1 of a label column. A missing value is bad, but for `positive`."""
    if column.positive:
        texts, bad = read_texts(array)
        found = _map_distinct(texts, lambda t: positives(t, column), pa.float32())
        return found.fill_null(0.0).to_numpy(), bad
    values, bad = read_numbers(array)
    bad = bad | np.isnan(values)
    if column.threshold is not None:
        return (values >= column.threshold).astype(np.float32), bad
    return values.astype(np.float32), bad | ((values != 0) & (values != 1))


def read_lists(array: pa.Array, column: ColumnConfig) -> tuple[pa.Array, np.ndarray]:
    """(n,) list of string of a multi-valued column, null within it where an item is missing."""
    array = plain_array(array)
    if pa.types.is_list(array.type):
        return list_texts(array)
    texts, bad = read_texts(array)
    if column.text == "json":
        lists = _map_distinct(texts, lambda t: list(map(parse_list, t)), pa.list_(pa.string()))
        return lists, bad | pc.and_(texts.is_valid(), lists.is_null()).to_numpy(
            zero_copy_only=False
        )
    return pc.split_pattern(texts, pattern=column.item_separator), bad


def list_texts(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """(n,) list of string of (n,) lists; a missing list is empty."""
    items, bad_items = read_texts(array.flatten())
    bad = np.zeros(len(array), bool)
    if bad_items.any():
        bad[pc.list_parent_indices(array).to_numpy()[bad_items]] = True
    lengths = pc.list_value_length(array).fill_null(0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), items), bad


def positives(texts: list[str], column: ColumnConfig) -> list[float]:
    """1 for each text that is among the label's positive values, 0 for others.

    A number equals all its texts, and true and false may be written in capitals. YAML reads yes and
    on as true, and no and off as false, where they stand without quotes.
    """
    words = {str(one).lower() for one in column.positive} & set(_WORDS)
    for one in column.positive:
        words |= set(_YAML_WORDS.get(one, ())) if isinstance(one, bool) else set()
    same = {one for one in column.positive if isinstance(one, str)}
    numbers = {float(one) for one in column.positive if type(one) in (int, float)}
    return [
        float(text in same or text.lower() in words or (bool(numbers) and _number(text) in numbers))
        for text in texts
    ]


def parse_times(texts: list[str], form: str) -> list[int | None]:
    """Seconds since 1970, rounded down, of texts of a format; None for a text of another form.

    `form` is iso8601 or a format of Python's strptime. A time without a zone is in UTC.
    """
    if is_iso8601(form):
        return [_seconds(text, datetime.fromisoformat) for text in texts]
    times = pd.to_datetime(pd.Index(texts, dtype=object), format=form, errors="coerce", utc=True)
    found = (times.asi8 // UNITS[times.unit]).tolist()
    known = (~times.isna() & ~pd.Index(texts).isin(_NOW)).tolist()
    # pandas is quick, and its years depend on the other texts: Python has the last word.
    return [
        seconds if good else _seconds(text, lambda text: datetime.strptime(text, form))
        for text, seconds, good in zip(texts, found, known, strict=True)
    ]


def cast_where_possible(column: pa.Array, target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """Casts a (n,) column value by value: Arrow's cast fails as a whole, and names no row.

    Only distinct values are tried, by halves: a few thousand bad ones among a million cost little.

    Returns:
        The column, null where the cast fails, and (n,) bool: where it fails.
    """
    try:
        return column.cast(target), np.zeros(len(column), bool)
    except _FAILURES:
        pass
    try:
        encoded = column.dictionary_encode()
    except _FAILURES:  # a nested type: no value can be cast
        return pa.nulls(len(column), target), column.is_valid().to_numpy(zero_copy_only=False)
    bad = np.zeros(len(encoded.dictionary), bool)
    parts = [(0, len(bad))]
    while parts:
        begin, end = parts.pop()
        try:
            encoded.dictionary.slice(begin, end - begin).cast(target)
        except _FAILURES:
            if end - begin == 1:
                bad[begin] = True
            else:
                middle = (begin + end) // 2
                parts += [(begin, middle), (middle, end)]
    good = pc.if_else(pa.array(bad), pa.scalar(None, column.type), encoded.dictionary)
    indices = encoded.indices.fill_null(-1).to_numpy()
    return good.cast(target).take(encoded.indices), (indices >= 0) & bad[indices]


def _float_texts(array: pa.Array) -> pa.Array:
    values = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    whole = (values == np.trunc(values)) & (np.abs(values) < _WHOLE)
    integers = np.where(whole, values, 0.0).astype(np.int64)
    texts = pa.array(integers, mask=np.isnan(values)).cast(pa.string())
    if not (whole | np.isnan(values)).all():
        texts = pc.if_else(pa.array(whole | np.isnan(values)), texts, array.cast(pa.string()))
    return texts


def _map_distinct(
    array: pa.Array, function: Callable[[list[Any]], list[Any]], kind: pa.DataType
) -> pa.Array:
    """Replaces each value by what `function` makes of the (V,) distinct ones; null stays null."""
    encoded = array.dictionary_encode()
    return pa.array(function(encoded.dictionary.to_pylist()), kind).take(encoded.indices)


def _decimal_texts(values: list[Decimal]) -> list[str]:
    return [format(value.normalize() + 0, "f") for value in values]


def _binary_texts(values: list[bytes]) -> list[str]:
    found = []
    for value in values:
        try:
            found.append(value.decode())
        except UnicodeDecodeError:
            found.append(value.hex())
    return found


def _seconds(text: str, parse: Callable[[str], datetime]) -> int | None:
    try:
        time = parse(text)
    except ValueError:
        return None
    return (time - (_EPOCH if time.tzinfo is None else _EPOCH_UTC)) // _SECOND


def _words(texts: list[str]) -> list[float | None]:
    return [_WORDS.get(text.lower()) for text in texts]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_binary(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
