"""From the bytes of a CSV file to paints, with every bad row named by its line and the reason.

Nothing here knows the database: a file is judged as a whole before anything is stored.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from studio.catalogue.records import IDENTITY, PaintFields, clean, read_paint
from studio.transfer.cells import restore

__all__ = ["COLUMNS", "Parsed", "Problem", "Row", "parse"]

#: The columns of an export, in its order; a file needs those of `IDENTITY` at least, in any order.
COLUMNS = ("brand", "range", "name", "code", "hex", "finish", "stock", "min_stock", "price", "description")

_FIELD_OF = {"price": "price_cents"}


class Problem(NamedTuple):
    """What is wrong in a line (counted from 1, the header's)."""

    line: int
    reason: str


class Row(NamedTuple):
    """A paint and the line it begins on."""

    line: int
    fields: PaintFields


class Parsed(NamedTuple):
    """A file as it was understood.

    Attributes:
        rows: The good rows; what to do with them is for whoever sees `problems` empty.
        problems: All that is wrong, in the order of lines.
        given: The fields of a paint that the file has a column for.
        ignored: The columns that mean nothing to us.
    """

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]
    given: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()


def parse(data: bytes, *, max_rows: int) -> Parsed:
    """Read a file of paints.

    Args:
        data: The file: CSV in UTF-8, with or without a byte order mark; the first line names the columns.
        max_rows: More rows than this are refused without being read.
    """
    text, problem = _decode(data)
    if problem is not None:
        return Parsed((), (problem,))
    lines = _lines(text)
    header = next(lines, None)
    if header is None:
        return Parsed((), (Problem(1, "the file is empty"),))
    if isinstance(header, Problem):
        return Parsed((), (header,))
    columns = [clean(name).lower() for name in header[1]]
    if problems := _header_problems(columns):
        return Parsed((), problems)
    rows, problems = _read(lines, columns, max_rows)
    given = frozenset(_FIELD_OF.get(name, name) for name in columns if name in COLUMNS)
    return Parsed(rows, problems, given, tuple(name for name in columns if name not in COLUMNS))


def _decode(data: bytes) -> tuple[str, Problem | None]:
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return "", Problem(1, "the file is UTF-16: save it as CSV in UTF-8")
    try:
        return data.decode("utf-8-sig"), None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return "", Problem(
            line, f"byte 0x{data[error.start]:02X} is not UTF-8: save the file as CSV in UTF-8"
        )


def _lines(text: str) -> Iterator[tuple[int, list[str]] | Problem]:
    """Yield the rows with the line they begin on; what follows broken quotes has no sure meaning."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    begin = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Problem(begin, f"the row cannot be read ({error}): nothing after it was read")
            return
        if any(cells):
            yield begin, cells
        begin = reader.line_num + 1


def _header_problems(columns: Sequence[str]) -> tuple[Problem, ...]:
    missing = [name for name in IDENTITY if name not in columns]
    twice = sorted({name for name in columns if name in COLUMNS and columns.count(name) > 1})
    problems = []
    if missing:
        found = ", ".join(filter(None, columns[:12]))[:200]
        problems.append(Problem(1, f"the columns {', '.join(missing)} are missing; found: {found}"))
    if twice:
        problems.append(Problem(1, f"the columns {', '.join(twice)} appear twice"))
    return tuple(problems)


def _read(
    lines: Iterator[tuple[int, list[str]] | Problem], columns: Sequence[str], max_rows: int
) -> tuple[tuple[Row, ...], tuple[Problem, ...]]:
    rows: list[Row] = []
    problems: list[Problem] = []
    first_seen: dict[tuple[str, ...], int] = {}
    for count, item in enumerate(lines, start=1):
        if isinstance(item, Problem):
            problems.append(item)
            break
        line, cells = item
        if count > max_rows:
            problems.append(Problem(line, f"the file has more than {max_rows} rows: split it"))
            break
        row, reason = _read_row(cells, columns)
        if row is not None:
            before = first_seen.setdefault(row.identity, line)
            reason = f"the same paint as in line {before}" if before != line else ""
        if row is None or reason:
            problems.append(Problem(line, reason))
        else:
            rows.append(Row(line, row))
    return tuple(rows), tuple(problems)


def _read_row(cells: Sequence[str], columns: Sequence[str]) -> tuple[PaintFields | None, str]:
    if len(cells) != len(columns):
        return None, f"{len(cells)} cells where the header has {len(columns)}"
    fields, problems = read_paint({name: restore(cell) for name, cell in zip(columns, cells, strict=True)})
    return fields, "; ".join(problems.values())
