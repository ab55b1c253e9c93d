"""Puts the contenders of a row on their lanes, after a look at whether each does what it is measured for."""

import asyncio
import os
import platform
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.benchmarks.race import (
    ARGUMENT,
    Lane,
    Timer,
    asyncio_lap,
    bare,
    bare_async,
    blocking_lap,
    threaded_lap,
)
from tests.benchmarks.rows import Entry, ImportRow, Row

_IMPORT = "import time; start = time.process_time(); {statement}; print(time.process_time() - start)"


class UnfairError(Exception):
    """A contender does not do what its row measures."""


def version(package: str) -> str | None:
    """Return the installed version of a distribution, or `None` if it is missing."""
    if package == "Python":
        return platform.python_version()
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def answers(server: str) -> bool:
    """Whether a service is there to take part."""
    try:
        services.place(server)
    except (pytest.skip.Exception, pytest.fail.Exception):
        return False
    return True


def lanes(row: Row, runner: asyncio.Runner, timer: Timer | None = None) -> list[Lane]:
    """Return the baseline, ours, and those rivals that are installed."""
    if row.server:
        timer = timer or time.perf_counter
    timing = {} if timer is None else {"timer": timer}

    def lane(name: str, protect: Callable[..., Any], *, hit: bool) -> Lane:
        call = _checked(name, protect, row.asynchronous, hit, runner)
        if row.threads > 1:
            return Lane(name, threaded_lap(call, row.threads, **timing))
        lap = asyncio_lap(call, runner, **timing) if row.asynchronous else blocking_lap(call, **timing)
        return Lane(name, lap)

    given = row.baseline
    if given is None:
        baseline = lane("bare wrapper", bare_async if row.asynchronous else bare, hit=False)
    else:
        baseline = lane(given.name, given.protect, hit=False)
    present = [entry for entry in (row.ours, *row.rivals) if entry is row.ours or version(entry.package)]
    return [baseline, *(lane(entry.name, entry.protect, hit=row.hit) for entry in present)]


def missing(row: Row) -> list[Entry]:
    """Return the rivals that are not installed."""
    return [entry for entry in row.rivals if version(entry.package) is None]


def import_lanes(row: ImportRow, bytecode: Path) -> list[Lane]:
    """Return the baseline and our statements, each lap a process of its own.

    Args:
        row: What is imported.
        bytecode: A folder for compiled modules, so that nobody compiles while being measured, whatever the environment
            says about writing bytecode.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(bytecode)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return [Lane(statement, _importing(statement, environment)) for statement in (row.baseline[1], *row.ours)]


def _checked(
    name: str, protect: Callable[..., Any], asynchronous: bool, hit: bool, runner: asyncio.Runner
) -> Callable[..., Any]:
    """Protect the measured function, and see that it answers right and is reached as often as the row says."""
    reached = 0

    def blocking(number: int) -> int:
        return number

    async def coroutine(number: int) -> int:
        return number

    def counted(number: int) -> int:
        nonlocal reached
        reached += 1
        return number

    async def counted_coroutine(number: int) -> int:
        return counted(number)

    probe = protect(counted_coroutine if asynchronous else counted)
    for _ in range(3):
        answer = runner.run(_awaited(probe(ARGUMENT))) if asynchronous else probe(ARGUMENT)
        if answer != ARGUMENT:
            raise UnfairError(f"{name} answers {answer!r} instead of {ARGUMENT!r}")
    if reached != (1 if hit else 3):
        raise UnfairError(f"{name} reached the function {reached} times in 3 calls")
    return protect(coroutine if asynchronous else blocking)


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer  # some give something that can be awaited, but is no coroutine


def _importing(statement: str, environment: Mapping[str, str]) -> Callable[[], float]:
    command = [sys.executable, "-c", _IMPORT.format(statement=statement)]

    def lap() -> float:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
        return float(done.stdout)

    lap()  # compiles what has to be compiled
    return lap
