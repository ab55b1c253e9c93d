"""Measures the table and prints it: `python -m tests.benchmarks [WORD] [--rounds N]`."""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import course
from tests.benchmarks.race import Standing, race
from tests.benchmarks.rows import ROWS, ImportRow, Row

_ROUNDS = 400
_IMPORT_ROUNDS = 25
_LINE = "  {name:<62} {time:>9} {ratio:>7}  {spread:<15} {verdict}".format


def main(arguments: list[str]) -> None:
    """Measure and print; targets that are missed are told, and are no failure of the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("word", nargs="?", default="", help="only rows whose title has this in it")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="laps of each contender (>= 2)")
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if options.word in row.title]
    if not rows or options.rounds < 2:
        parser.error("nothing to measure: no title has that word in it, or there are fewer than 2 rounds")
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores; "
        f"{options.rounds} rounds; ratios to the first line of each row: median (middle half)"
    )
    for row in rows:
        print(f"\n{row.title}: at most {row.target}")
        lines = _imports(row) if isinstance(row, ImportRow) else _calls(row, options.rounds)
        for line in lines:
            print(line.rstrip(), flush=True)


def _calls(row: Row, rounds: int) -> Iterator[str]:
    entries = (row.ours, *row.rivals, *filter(None, [row.baseline]))
    packages = {entry.name: entry.package for entry in entries}
    if row.server and not course.answers(row.server):
        yield _LINE(name=row.server, time="missing", ratio="", spread="", verdict="")
        return
    with asyncio.Runner() as runner:
        # Laps of several threads are longer, and need fewer rounds.
        standings = race(course.lanes(row, runner), rounds if row.threads == 1 else max(2, rounds // 8))
    for standing in standings:
        package = packages.get(standing.name)
        release = "" if package is None else f" {course.version(package)}"
        target = row.target if standing.name == row.ours.name else None
        yield _line(standing, release, f"{standing.seconds * 1e9:.0f} ns", target)
    for entry in course.missing(row):
        yield _LINE(name=entry.name, time="missing", ratio="", spread="", verdict="")


def _imports(row: ImportRow) -> Iterator[str]:
    package, statement = row.baseline
    release = course.version(package)
    if release is None:
        yield _LINE(name=statement, time="missing", ratio="", spread="", verdict="")
        return
    with tempfile.TemporaryDirectory() as bytecode:
        standings = race(course.import_lanes(row, Path(bytecode)), _IMPORT_ROUNDS)
    for standing in standings:
        ours = standing.name in row.ours
        suffix = "" if ours else f"  # {release}"
        yield _line(standing, suffix, f"{standing.seconds * 1e3:.2f} ms", row.target if ours else None)


def _line(standing: Standing, suffix: str, time: str, target: float | None) -> str:
    return _LINE(
        name=standing.name + suffix,
        time=time,
        ratio=f"{standing.ratio:.2f}",
        spread=f"({standing.low:.2f} – {standing.high:.2f})",
        verdict="" if target is None else standing.verdict(target),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
