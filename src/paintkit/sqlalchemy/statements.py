"""What the text of a statement tells: whether it only reads, what it is like, and whether it reads a long result in parts."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["Ran", "controls_transaction", "fingerprint", "is_walk", "only_reads"]

Parameters = Mapping[str, Any] | Sequence[Any]

_QUOTED_NAME: Final = r'"[^"]*"|`[^`]*`'
_LITERAL: Final = r"'(?:[^']|'')*'|(?<![\w.$])\d+(?:\.\d+)?\b"
# As the drivers write them; SQLAlchemy's own mark of a list comes first.
_PLACEHOLDER: Final = r"__\[POSTCOMPILE_\w+\]|%\(\w+\)s|%s|\?|\$\d+|(?<!:):[A-Za-z_]\w*"

# Space, brackets and comments, as a whole; what MySQL executes of its own "comments" is none.
_LEAD: Final = r"(?:[\s(]|--[^\n]*|/\*(?!!).*?\*/)*+"
_CHANGE: Final = r"\b(?:insert|update|delete|merge|replace\s+into)\b"
_READING: Final = re.compile(
    rf"{_LEAD}(?:(?:select|show|values|table|describe|desc|pragma)\b|(?:with|explain)\b(?!.*{_CHANGE}))",
    re.IGNORECASE | re.DOTALL,
)

_CONTROL: Final = re.compile(
    rf"{_LEAD}(?:commit|begin|end|abort|start\s+transaction|rollback(?!\s+(?:work\s+|transaction\s+)?to\b))\b",
    re.IGNORECASE,
)

_VALUES: Final = re.compile(rf"({_QUOTED_NAME})|{_LITERAL}")
_LISTS: Final = re.compile(
    rf"\b(in\s*\(\s*)(?:{_PLACEHOLDER})(?:\s*,\s*(?:{_PLACEHOLDER}))*\s*\)", re.IGNORECASE
)
_TOKENS: Final = re.compile(
    rf"(?P<name>{_QUOTED_NAME})|(?P<value>{_PLACEHOLDER}|{_LITERAL})|(?P<more><>|[<>]=?)|(?P<word>[A-Za-z_]\w*)"
)
_ROLES: Final = (
    dict.fromkeys(("limit", "fetch", "top"), "limit")
    | dict.fromkeys(("in", "any"), "list")
    | {"offset": "start"}
    # What ends a list, or the right side of a comparison.
    | dict.fromkeys(("and", "or", "not", "where", "order", "group", "having"), "other")
    | dict.fromkeys(("union", "from", "join", "on", "then", "when"), "other")
)


class Ran(NamedTuple):
    """A statement as the driver got it.

    Attributes:
        sql: Its text.
        parameters: Its values, by position or by name.
    """

    sql: str
    parameters: Parameters


def only_reads(sql: str) -> bool:
    """Tell whether a statement reads and changes nothing, as far as its text shows it; in doubt it does not.

    Example:
        >>> only_reads("/* all */ WITH red AS (SELECT 1) SELECT * FROM red"), only_reads("EXPLAIN ANALYZE DELETE FROM paint")
        (True, False)
    """
    return _READING.match(sql) is not None


def controls_transaction(sql: str) -> bool:
    """Tell whether a statement begins or ends a transaction; savepoints are none.

    Example:
        >>> controls_transaction(" COMMIT"), controls_transaction("ROLLBACK TO SAVEPOINT red")
        (True, False)
    """
    return _CONTROL.match(sql) is not None


@functools.lru_cache(maxsize=1024)
def fingerprint(sql: str) -> str:
    """Return the text without what differs between runs: its values, the lengths of its lists, its line breaks.

    Example:
        >>> fingerprint("SELECT *  FROM paint WHERE name = 'red' AND id IN (1, 2, 3)")
        'SELECT * FROM paint WHERE name = ? AND id IN (?)'
    """
    text = _VALUES.sub(lambda match: match[1] or "?", sql)
    return " ".join(_LISTS.sub(r"\1?)", text).split())


def is_walk(parts: Sequence[Ran]) -> bool:
    """Whether statements that are alike read one long result in parts: page by page, or a list of values in chunks.

    Pages have a limit above 1 and differ in nothing but where they start: an offset, or the right side of `>` or `<`, each
    further than the one before. Chunks differ in nothing but the values of their lists; all but the last have several.

    Example:
        >>> page = "SELECT id FROM paint WHERE id > ? ORDER BY id LIMIT ?"
        >>> is_walk([Ran(page, (0, 100)), Ran(page, (100, 100)), Ran(page, (200, 100))])
        True
        >>> one = "SELECT id FROM paint WHERE id = ?"
        >>> is_walk([Ran(one, (1,)), Ran(one, (2,))])
        False
    """
    read = [_Values.of(part) for part in parts]
    return _are_pages(read) or _are_chunks(read)


class _Values(NamedTuple):
    """The values of a statement by what they are for."""

    limits: list[Any]
    starts: list[Any]
    lists: list[Any]
    others: list[Any]

    @classmethod
    def of(cls, ran: Ran) -> _Values:
        found: dict[str, list[Any]] = {"limit": [], "start": [], "list": [], "other": []}
        for role, value in _roles(ran):
            if role == "list" and isinstance(value, list | tuple):  # an array, as one value
                found["list"].extend(value)
            else:
                found[role].append(value)
        if len(found["limit"]) == 2:  # MySQL's `LIMIT offset, limit`
            found["start"].append(found["limit"].pop(0))
        return cls(found["limit"], found["start"], found["list"], found["other"])


def _are_pages(read: list[_Values]) -> bool:
    # What starts after (a, b) may compare `a` twice: a > 1 OR (a = 1 AND b > 2).
    rests = [repr((one.lists, [other for other in one.others if other not in one.starts])) for one in read]
    starts = [one.starts for one in read]
    return (
        all(one.starts and one.limits and _is_many(one.limits[0]) for one in read)
        and len(set(rests)) == 1
        and (_rises(starts) or _rises(starts[::-1]))
    )


def _are_chunks(read: list[_Values]) -> bool:
    rests = {repr((one.limits, one.starts, one.others)) for one in read}
    lists = {repr(one.lists) for one in read}
    return len(rests) == 1 and len(lists) == len(read) and all(len(one.lists) > 1 for one in read[:-1])


def _is_many(limit: object) -> bool:
    """Whether a limit allows more than one row; one that cannot be read does."""
    return str(limit) not in {"0", "1"}


def _rises(starts: list[list[Any]]) -> bool:
    try:
        return all(before < after for before, after in itertools.pairwise(starts))
    except TypeError:  # values without an order: that they differ must do
        return len({repr(start) for start in starts}) == len(starts)


def _roles(ran: Ran) -> Iterator[tuple[str, Any]]:
    """Return each value with what it is for: `"limit"`, `"start"`, `"list"` or `"other"`."""
    role = "other"
    position = 0
    for token in _TOKENS.finditer(ran.sql):
        if token["value"] is not None:
            value, position = _value(token["value"], ran.parameters, position)
            yield role, value
        elif token["more"] is not None:
            role = "other" if token["more"] == "<>" else "start"
        elif token["word"] is not None:
            role = _ROLES.get(token["word"].lower(), role)


def _value(token: str, parameters: Parameters, position: int) -> tuple[Any, int]:
    """Return the value that stands for a token, and the position of the next one."""
    if isinstance(parameters, Mapping):
        name = token[2:-2] if token.startswith("%(") else token[1:]
        if name in parameters:
            return parameters[name], position
    elif token in {"?", "%s"} and position < len(parameters):
        return parameters[position], position + 1
    elif token.startswith("$") and int(token[1:]) <= len(parameters):
        return parameters[int(token[1:]) - 1], position
    # Written out; numbers as such, for 9 comes before 10.
    return (int(token) if token.isdecimal() else token), position
