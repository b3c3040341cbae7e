"""The terminal shows the worst warnings of a data set, and says how many it leaves out."""

from jobs.console.data_warnings import MOST_LINES, warning_lines


def one(kind: str, weight: float, **column) -> dict:
    return {"kind": kind, "text": f"{kind} {weight}", "weight": weight, **column}


def test_the_worst_come_first_and_columns_of_one_kind_share_a_line():
    columns = [one("unknown", 7, column=f"C{i}", place=i) for i in range(6)]
    lines = warning_lines([*columns, one("leak", 10, column="x\n", place=9), one("empty", 4)])
    assert lines == [
        "warning: x\\n: leak 10",
        "warning: C0: unknown 7 The same holds for C1, C2, C3 and 2 more.",
        "warning: empty 4",
    ]
    assert warning_lines([]) == []


def test_many_warnings_end_with_their_number():
    lines = warning_lines([one(f"kind{i}", 20 - i) for i in range(12)])
    assert len(lines) == MOST_LINES + 1 and lines[-1] == "4 more warnings in report.html"
