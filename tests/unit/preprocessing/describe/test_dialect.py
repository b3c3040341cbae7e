"""The separator, quote, escape, encoding and header of a text are guessed."""

import pytest

from ctrdist.errors import DataError
from preprocessing.describe.dialect import dialect_of, encoding_of, header_of
from preprocessing.sources.dialect import escape_of, quote_of, separator_of

ROWS = range(60)


@pytest.mark.parametrize(
    ("lines", "separator", "columns"),
    [
        ([f"{i},2020-01-01 10:0{i % 9}:00,{i % 2}" for i in ROWS], ",", 3),
        ([f"{i}\ta,b,c,d\t{i % 2}" for i in ROWS], "\t", 3),
        ([f"{i},5;{i},5;1" for i in ROWS], ";", 3),
        ([f"{i}::{i % 5}::97830{i:04d}" for i in ROWS], "::", 3),
        ([f"{i}|x{'|y' * (i % 2)}|1" for i in ROWS] + ["a|b|c"] * 400, "|", 3),
        ([f"{i}\x01a\x02b\x01{i % 2}" for i in ROWS], "\x01", 3),
        ([f"{i} {i % 7} 1" for i in ROWS], " ", 3),
        ([f"{i},http://a.b/{i}:80,{i % 2}" for i in ROWS], ",", 3),
    ],
)
def test_the_separator_is_that_which_is_everywhere(lines, separator, columns):
    found = dialect_of([lines], "a")
    assert (separator_of(found.layout), found.columns) == (separator, columns)


@pytest.mark.parametrize(
    ("line", "quote", "escape"),
    [
        ('{},"a, b",1', '"', ""),
        ('{},"say ""x"", y",1', '"', ""),
        ('{},"say \\"x\\", y",1', '"', "\\"),
        ('{}\t5" disk\t1', "", ""),
        ('{},5" disk,1', "", ""),
        ("{}\ta\\\tb\t1", "", "\\"),
        ("{},a,1", '"', ""),
    ],
)
def test_quotes_and_escapes(line, quote, escape):
    found = dialect_of([[line.format(i) for i in ROWS]], "a")
    assert found.columns == 3
    assert (quote_of(found.layout), escape_of(found.layout)) == (quote, escape)


def test_blanks_after_separators_are_no_part_of_the_values():
    assert dialect_of([[f"{i}, Private, 1" for i in ROWS]], "a").layout.skip_blank
    assert not dialect_of([[f'{i},"a, b",1' for i in ROWS]], "a").layout.skip_blank


def test_a_line_end_in_a_quoted_value_is_recognised():
    lines = [f"{i},x,1" for i in ROWS] + ['7,"a', 'b",1'] * 3
    found = dialect_of([lines], "a")
    assert (quote_of(found.layout), found.open_quotes) == ('"', 3)


def test_files_may_have_different_columns():
    groups = [[f"{i},a,1" for i in ROWS], [f"{i},a,1,b" for i in ROWS]]
    found = dialect_of(groups, "a")
    assert (found.columns, found.consistent) == (3, 1.0)


def test_what_has_no_columns_is_refused():
    with pytest.raises(DataError, match="no separator"):
        dialect_of([["1" + "".join(f" {k}:1" for k in range(i % 9)) for i in ROWS]], "a")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("é", "utf-8"),
        ("é", "latin-1"),
        ("€", "cp1252"),
        ("北京", "gb18030"),
    ],
)
def test_encodings(text, encoding):
    lines = [b"plain", text.encode(encoding)]
    assert encoding_of(lines)[0] == encoding


BODY = [["1", "a", "x"], ["0", "b", "x"], ["1", "a", "y"]] * 5


@pytest.mark.parametrize(
    ("first", "body", "expected"),
    [
        (["click", "site", "z"], BODY, True),
        (["1", "site", "z"], BODY, False),
        (["site", "user", "z"], [[*row[1:], "q"] for row in BODY], True),
        (["a", "x", "q"], [[*row[1:], "q"] for row in BODY], False),
        (["0", "1", "2", "3"], [["5", "6", "7", "8"]] * 9, True),
        (["", "click", "b"], BODY, True),
    ],
)
def test_a_header_stands_above_other_values(first, body, expected):
    assert header_of(first, body)[0] is expected
