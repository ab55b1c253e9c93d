"""What the text of a statement tells."""

import pytest

from paintkit.sqlalchemy.statements import Ran, fingerprint, is_walk, only_reads


@pytest.mark.parametrize(
    "sql",
    [
        "select 1",
        "  (SELECT 1) UNION (SELECT 2)",
        "-- of all\n\tSELECT last_update, replace(name, 'a', 'b') FROM paint",
        "/* of\nall */ WITH RECURSIVE n AS (SELECT 1) SELECT * FROM n",
        "EXPLAIN ANALYZE SELECT 1",
        "TABLE paint",
        "VALUES (1)",
        "DESCRIBE paint",
        "PRAGMA query_only",
    ],
)
def test_what_only_reads(sql: str) -> None:
    """Comments, brackets and named subqueries before a SELECT do not make it a write."""
    assert only_reads(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO paint VALUES (1)",
        "/* SELECT */ DELETE FROM paint",
        "-- SELECT\nUPDATE paint SET id = 1",
        "/*! DELETE FROM paint */",
        "WITH gone AS (DELETE FROM paint RETURNING id) SELECT * FROM gone",
        "WITH new AS (SELECT 1) REPLACE INTO paint SELECT * FROM new",
        "EXPLAIN ANALYZE\nUPDATE paint SET id = 1",
        "CALL restock()",
        "selection",
        "",
    ],
)
def test_what_may_write(sql: str) -> None:
    """What changes rows, wherever it stands, and what nobody knows, is no reading."""
    assert not only_reads(sql)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT 1", "SELECT 2"),
        ("SELECT  a\n FROM t", "SELECT a FROM t"),
        ("SELECT a FROM t WHERE b = 'it''s'", "SELECT a FROM t WHERE b = 'x'"),
        ("SELECT a FROM t WHERE b IN (1, 2, 3)", "SELECT a FROM t WHERE b IN (7)"),
        ("SELECT a FROM t WHERE b IN (%s, %s)", "SELECT a FROM t WHERE b IN (%s)"),
        ("SELECT a FROM t WHERE b IN ($1, $2)", "SELECT a FROM t WHERE b IN ($1)"),
    ],
)
def test_values_make_no_difference(one: str, other: str) -> None:
    """Statements that differ in values, lengths of lists and white space only have one fingerprint."""
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT a1 FROM t", "SELECT a2 FROM t"),
        ('SELECT "1" FROM t', 'SELECT "2" FROM t'),
        ("SELECT a FROM t_1", "SELECT a FROM t_2"),
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE c = 1"),
    ],
)
def test_names_make_a_difference(one: str, other: str) -> None:
    """Digits in names, quoted or not, tell statements apart."""
    assert fingerprint(one) != fingerprint(other)


def walks(sql: str, *values: object) -> bool:
    return is_walk([Ran(sql, one) for one in values])


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        ("SELECT a FROM t WHERE a > ? ORDER BY a LIMIT ?", [(0, 9), (9, 9), (18, 9)]),
        ("SELECT a FROM t WHERE a < %s ORDER BY a DESC LIMIT %s", [(99, 9), (90, 9), (80, 9)]),
        ("SELECT a FROM t WHERE a > $1::INTEGER ORDER BY a LIMIT $2", [(0, 9), (9, 9), (18, 9)]),
        (
            "SELECT a FROM t WHERE (a, b) > (%(x)s, %(y)s) LIMIT %(n)s",
            [{"x": 1, "y": 5, "n": 9}, {"x": 1, "y": 8, "n": 9}, {"x": 2, "y": 1, "n": 9}],
        ),
        ("SELECT a FROM t WHERE c = ? LIMIT ? OFFSET ?", [(1, 9, 0), (1, 9, 9), (1, 9, 18)]),
        ("SELECT a FROM t LIMIT %s, %s", [(0, 9), (9, 9), (18, 9)]),
        ("SELECT a FROM t OFFSET :o ROWS FETCH FIRST :n ROWS ONLY", [{"o": 0, "n": 9}, {"o": 9, "n": 9}]),
        ("SELECT a FROM t WHERE c = ? AND a IN (?, ?)", [(1, 2, 3), (1, 4, 5), (1, 6, 7)]),
        ("SELECT a FROM t WHERE a = ANY(%s)", [([1, 2],), ([3, 4],), ([5],)]),
    ],
)
def test_parts_of_one_result(sql: str, values: list[object]) -> None:
    """Pages and chunks are recognised in every style of parameters."""
    assert walks(sql, *values)


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        ("SELECT a FROM t WHERE a = ?", [(1,), (2,), (3,)]),
        ("SELECT a FROM t WHERE a <> ? LIMIT ?", [(1, 9), (2, 9), (3, 9)]),
        ("SELECT a FROM t WHERE a > ? LIMIT ?", [(5, 9), (1, 9), (3, 9)]),
        ("SELECT a FROM t WHERE a > ? LIMIT ?", [(1, 1), (2, 1), (3, 1)]),
        ("SELECT a FROM t WHERE a > ?", [(1,), (2,), (3,)]),
        ("SELECT a FROM t WHERE c = ? AND a > ? LIMIT ?", [(1, 0, 9), (2, 0, 9), (3, 0, 9)]),
        ("SELECT a FROM t WHERE c = ? AND a IN (?, ?)", [(1, 8, 9), (2, 8, 9), (3, 8, 9)]),
        ("SELECT a FROM t WHERE a IN (?)", [(1,), (2,), (3,)]),
        ("SELECT a FROM t WHERE a IN (?, ?)", [(1, 2), (1, 2), (1, 2)]),
    ],
)
def test_loops(sql: str, values: list[object]) -> None:
    """What goes nowhere, one row at a time, or over other rows each time, is no walk."""
    assert not walks(sql, *values)
