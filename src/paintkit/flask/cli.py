"""The commands `flask paintkit stats`, `explain` and `check`, and the group `outbox`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import click
from flask.cli import AppGroup

from paintkit.flask import loops
from paintkit.flask.outbox_cli import outbox_group
from paintkit.flask.totals import Parts, collect

__all__ = ["group"]

_Checks = Mapping[str, Callable[[], object]]


def group(parts: Parts, checks: _Checks) -> AppGroup:
    """Return the command group for what an app uses, and its own checks."""
    commands = AppGroup("paintkit", help="Show and check what this app uses of paintkit.")
    commands.add_command(outbox_group(parts.buses))

    @commands.command()
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    def stats(as_json: bool) -> None:
        """Print the totals of this process."""
        totals = collect(parts)
        if as_json:
            click.echo(json.dumps(totals, indent=2))
            return
        for line in _lines(totals):
            click.echo(line)

    @commands.command()
    def explain() -> None:
        """Print what the app uses and how it is set up."""
        for line in _explained(parts, checks):
            click.echo(line)

    @commands.command()
    @click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Processes of one replica (default: WEB_CONCURRENCY, or 1).",
    )
    @click.option(
        "--replicas", type=click.IntRange(min=1), default=1, show_default=True, help="Machines or containers."
    )
    @click.pass_context
    def check(context: click.Context, workers: int | None, replicas: int) -> None:
        """Look for trouble; exit with 1 if there is any."""
        levels = set()
        for level, where, message in _findings(parts, checks, workers, replicas):
            levels.add(level)
            click.echo(f"{level:7}  {where}: {message}")
        if not levels:
            click.echo("nothing to check: the app gave PaintKit no database and no checks")
        if "error" in levels:
            context.exit(1)

    return commands


def _lines(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            if inner:
                yield f"{indent}{key}"
                yield from _lines(inner, f"{indent}  ")
        else:
            yield f"{indent}{key:24} {_shown(inner)}"


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _explained(parts: Parts, checks: _Checks) -> Iterator[str]:
    for kind, ones in zip(parts._fields, parts, strict=True):
        if not ones:
            continue
        yield kind
        for name, one in ones.items():
            yield f"  {name}: {one!r}"
            yield from (f"    {line}" for line in _inside(one))
    if checks:
        yield "checks"
        yield from (f"  {name}" for name in checks)


def _inside(part: Any) -> Iterator[str]:
    """What a part holds: policies of a registry, handlers and transport of a bus, components of a manager."""
    for policies in ("retries", "circuit_breakers", "policies"):
        yield from map(repr, getattr(part, policies, {}).values())
    if transport := getattr(part, "transport", None):
        yield f"carried by {transport!r}"
    stats = part.get_stats() if hasattr(part, "get_stats") else {}
    yield from (f"{count} × {pattern}" for pattern, count in stats.get("handlers", {}).items())
    yield from (f"{name}: {state}" for name, state in stats.get("components", {}).items())


def _findings(
    parts: Parts, checks: _Checks, workers: int | None, replicas: int
) -> Iterator[tuple[str, str, str]]:
    for name, db in parts.databases.items():
        for level, topic, message in _checked(db, workers, replicas):
            yield level, f"{name} {topic}", message
    for name, check in checks.items():
        try:
            check()
        except Exception as error:  # noqa: BLE001 - that it fails is the finding
            yield "error", name, str(error) or type(error).__name__
        else:
            yield "ok", name, "all is well"


def _checked(db: Any, workers: int | None, replicas: int) -> Iterable[tuple[str, str, str]]:
    """Return what a database manager of either colour finds."""
    if getattr(db, "is_async", False):
        yield from loops.run(db, lambda: db.acheck(workers=workers, replicas=replicas))
    else:
        yield from db.check(workers=workers, replicas=replicas)
