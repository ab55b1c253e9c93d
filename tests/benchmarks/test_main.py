from collections.abc import Callable
from typing import Any

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import course
from tests.benchmarks.race import Lane
from tests.benchmarks.rows import Entry, ImportRow, Row


def unchanged(fn: Callable[..., Any]) -> Callable[..., Any]:
    return fn


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows whose laps are made up: ours is twice as slow as the bare wrapper."""
    calls = Row("calls", 1.5, Entry("paintkit", unchanged), (Entry("no-such-rival", unchanged, "no tags"),))
    imports = ImportRow("imports", 0.7, ("pip", "import rival"), ("import paintkit",))
    monkeypatch.setattr(command, "ROWS", (calls, imports))
    monkeypatch.setattr(
        course,
        "lanes",
        lambda row, runner: [Lane("bare wrapper", lambda: 1e-7), Lane("paintkit", lambda: 2e-7)],
    )
    monkeypatch.setattr(
        course,
        "import_lanes",
        lambda row, bytecode: [Lane("import rival", lambda: 0.02), Lane("import paintkit", lambda: 0.01)],
    )


@pytest.mark.usefixtures("table")
def test_the_table_tells_what_was_met_missed_and_missing(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line has its time, ratio and spread; ours has a verdict; a rival that is absent is named as missing."""
    command.main([])

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [
        "calls: at most 1.5",
        "bare wrapper 100 ns 1.00 (1.00 – 1.00)",
        f"paintkit {course.version('paintkit')} 200 ns 2.00 (2.00 – 2.00) MISSED",
        "no-such-rival (no tags) missing",
        "",
        "imports: at most 0.7",
        f"import rival # {course.version('pip')} 20.00 ms 1.00 (1.00 – 1.00)",
        "import paintkit 10.00 ms 0.50 (0.50 – 0.50) met",
    ] == lines[2:]


@pytest.mark.usefixtures("table")
def test_a_word_picks_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """Only rows with the word in their title are measured."""
    command.main(["imports"])

    assert "calls" not in capsys.readouterr().out


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("arguments", [["nothing like that"], ["--rounds", "1"]])
def test_nothing_to_measure_is_a_mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A word that no title has, or a single round, is refused with the usage."""
    with pytest.raises(SystemExit):
        command.main(arguments)

    assert "nothing to measure" in capsys.readouterr().err
