"""Laws of reading a file: every bad row is named with its line and the reason."""

import pytest

from studio.transfer.csv_in import COLUMNS, parse

HEADER = b"brand,range,name,code,hex\n"
GOOD = b"Alder,Core,Moss,A1,#336633\n"


def problems(data: bytes, max_rows: int = 100) -> list[tuple[int, str]]:
    return [tuple(problem) for problem in parse(data, max_rows=max_rows).problems]


def only_problem(data: bytes) -> tuple[int, str]:
    (problem,) = problems(data)
    return problem


def test_a_good_file_in_any_order_of_columns():
    """Columns are found by name, whatever their order, case and the mark at the file's beginning."""
    parsed = parse(b"\xef\xbb\xbfHEX, name ,code,range,Brand\r\n336633,Moss,,,Alder\r\n", max_rows=10)
    assert () == parsed.problems
    assert ("Alder", "", "", "Moss", "#336633") == parsed.rows[0].fields.identity
    assert frozenset({"brand", "range", "code", "name", "hex"}) == parsed.given


def test_columns_that_mean_nothing_are_told():
    """A column that we do not know is no error, and is not passed over in silence."""
    parsed = parse(HEADER.strip() + b",shelf\n" + GOOD.strip() + b",B2\n", max_rows=10)
    assert ((), ("shelf",), 1) == (parsed.problems, parsed.ignored, len(parsed.rows))


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"", 1, "the file is empty"),
        (b"\xff\xfeb\x00", 1, "the file is UTF-16"),
        (HEADER + GOOD + "Aldér,,x,,#112233".encode("latin-1"), 3, "byte 0xE9 is not UTF-8"),
        (b"brand,name\nAlder,Moss\n", 1, "the columns range, code, hex are missing; found: brand, name"),
        (b"brand,brand,range,name,code,hex\n", 1, "the columns brand appear twice"),
        (HEADER + b"Alder,Core,Moss\n", 2, "3 cells where the header has 5"),
        (HEADER + b"Alder,Core,Moss,A1,#336633,x\n", 2, "6 cells where the header has 5"),
        (HEADER + GOOD + b"\n" + b",Core,Moss,A1,#336633\n", 4, "brand is empty"),
        (HEADER + b"Alder,Core,Moss,A1,green\n", 2, "'green' is no colour"),
        (HEADER + b"Alder,Core,Mo\x00ss,A1,#336633\n", 2, "name holds a control character"),
        (HEADER + b"Alder,Core," + b"m" * 121 + b",A1,#336633\n", 2, "name is longer than 120 characters"),
        (HEADER + GOOD + GOOD, 3, "the same paint as in line 2"),
        (HEADER + GOOD + b'Alder,"Core" x,Moss,A1,#336633\n', 3, "the row cannot be read"),
        (HEADER + GOOD + b'Alder,"Core,Moss,A1,#336633\n' + GOOD, 3, "the row cannot be read"),
        (HEADER.strip() + b",stock\n" + GOOD.strip() + b",-1\n", 2, "stock must be a whole number"),
        (HEADER.strip() + b",stock\n" + GOOD.strip() + b",1e3\n", 2, "stock must be a whole number"),
        (HEADER.strip() + b",price\n" + GOOD.strip() + b",1.005\n", 2, "price must be an amount"),
        (HEADER.strip() + b",price\n" + GOOD.strip() + b",NaN\n", 2, "price must be an amount"),
        (HEADER.strip() + b",finish\n" + GOOD.strip() + b",shiny\n", 2, "'shiny' is no finish"),
    ],
)
def test_a_bad_row_is_named(data, line, reason):
    """One mistake gives one problem, on its line, with its reason."""
    found_line, found_reason = only_problem(data)
    assert line == found_line
    assert found_reason.startswith(reason), found_reason


def test_every_bad_row_is_reported():
    """Reading goes on after a bad row, and a cell of several lines does not shift the count."""
    data = HEADER.strip() + b',description\nA,,N,,#112233,"two\nlines"\nA,,N,,red,\nA,,,,#112233,\n'
    assert [4, 5] == [line for line, _ in problems(data)]


def test_too_many_rows_are_refused_unread():
    """The row beyond the limit is named; what comes after it is not read."""
    rows = b"".join(b"A,,%d,,#112233\n" % number for number in range(5))
    assert [(4, "the file has more than 2 rows: split it")] == problems(HEADER + rows, max_rows=2)


def test_the_export_names_the_needed_columns_first():
    """The first five columns are those that a file needs."""
    assert ("brand", "range", "name", "code", "hex") == COLUMNS[:5]
