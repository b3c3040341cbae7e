"""Lines that a person sees."""

from jobs.console.run import _collapsed


def test_collapsed_tables_are_named_up_to_ten():
    assert _collapsed({}) == []
    assert _collapsed({"below": 0.25, "tables": [], "of": 5}) == []
    few = {"below": 0.25, "tables": ["C3", "C9"], "of": 39}
    assert _collapsed(few) == ["2 of 39 tables use less than 25% of the dimensions: C3, C9"]
    many = {"below": 0.1, "tables": [f"C{i}" for i in range(13)], "of": 39}
    (line,) = _collapsed(many)
    assert line.endswith(": C0, C1, C2, C3, C4, C5, C6, C7, C8, C9 and 3 more")
