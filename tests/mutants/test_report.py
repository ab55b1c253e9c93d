"""The table tells killed mutants from survivors, and too many survivors from few enough."""

import json

from tests.mutants.report import Verdict, read, suffices, table

FAILED, ERROR, TOO_LONG = 1, 3, -24
PASSED, NO_TESTS, NOT_ASKED = 0, 33, None


def test_a_mutant_is_killed_by_a_failure_an_error_or_an_endless_loop(tmp_path):
    """It survives when the tests pass, when there are none, and when nobody was asked."""
    codes = dict(zip("abcdef", [FAILED, PASSED, ERROR, NO_TESTS, TOO_LONG, NOT_ASKED], strict=True))
    (tmp_path / "breaker.py.meta").write_text(json.dumps({"exit_code_by_key": codes}), "utf-8")
    (tmp_path / "empty.py.meta").write_text(json.dumps({"exit_code_by_key": {}}), "utf-8")

    (verdict,) = read(tmp_path)

    assert Verdict("breaker", 6, ["b", "d", "f"], ["e"]) == verdict
    assert 3 == verdict.killed


def test_the_table_ends_with_the_sum():
    """A line for each machine, and the shares in per cent."""
    lines = [
        line.split()
        for line in table([Verdict("batch", 30, [], ["three"]), Verdict("breaker", 70, ["one", "two"], [])])
    ]

    assert [
        ["machine", "mutants", "killed", "endless", "survivors", "share"],
        ["batch", "30", "30", "1", "0", "100.0%"],
        ["breaker", "70", "68", "0", "2", "97.1%"],
        ["all", "100", "98", "1", "2", "98.0%"],
    ] == lines


def test_one_survivor_in_twenty_is_the_most():
    """All machines together have to reach 95 %."""
    assert suffices([Verdict("batch", 10, [], []), Verdict("breaker", 10, ["one"], [])])
    assert not suffices([Verdict("batch", 10, [], []), Verdict("breaker", 9, ["one"], [])])
