"""The commands `flask paintkit outbox status`, `replay`, `purge` and `relay`."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from typing import Any

import click
from flask.cli import AppGroup

from paintkit.flask import loops

__all__ = ["outbox_group"]

_DAY = 86_400.0

# Days: more is a mistake in units.
_LONGEST = 366


def outbox_group(buses: Mapping[str, Any]) -> AppGroup:
    """Return the command group for the outboxes that carry the events of an app's buses."""
    commands = AppGroup("outbox", help="Look after the events that an outbox carries.")
    named = click.option("--bus", "name", help="Whose outbox, if several buses have one.")

    @commands.command()
    @named
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    @click.option(
        "--dead", type=click.IntRange(min=0), default=10, show_default=True, help="Dead letters to show."
    )
    def status(name: str | None, as_json: bool, dead: int) -> None:
        """Print what waits and what was given up."""
        outbox = _outbox(buses, name)
        totals = _call(outbox, "status")
        letters = _call(outbox, "dead_letters", limit=dead) if dead else []
        if as_json:
            click.echo(json.dumps({**totals, "dead_letters": [_letter(one) for one in letters]}, indent=2))
            return
        for key, value in totals.items():
            click.echo(f"{key:10} {value:.6g}")
        for letter in letters:
            event = letter.event
            click.echo(f"{event.id}  {event.type}  {letter.died_at:%Y-%m-%d %H:%M:%S} UTC  {letter.error}")

    @commands.command()
    @named
    @click.option("--type", "event_type", help="Only events of this type.")
    @click.option("--all", "everything", is_flag=True, help="All dead letters.")
    @click.argument("event_ids", nargs=-1)
    def replay(
        name: str | None, event_type: str | None, everything: bool, event_ids: tuple[str, ...]
    ) -> None:
        """Put dead letters back, by their ids, by type or all."""
        if not event_ids and event_type is None and not everything:
            raise click.UsageError("say which: ids, --type or --all")
        count = _call(_outbox(buses, name), "replay", event_ids or None, event_type=event_type)
        click.echo(_put_back(count, event_ids))

    @commands.command()
    @named
    @click.option(
        "--days",
        type=click.FloatRange(0, _LONGEST),
        default=7.0,
        show_default=True,
        help="Age of inbox rows.",
    )
    @click.option(
        "--dead-days", type=click.FloatRange(0, _LONGEST), help="Age of dead letters (default: keep them)."
    )
    def purge(name: str | None, days: float, dead_days: float | None) -> None:
        """Remove what nobody needs any more; for a daily job."""
        dead = None if dead_days is None else dead_days * _DAY
        click.echo(f"{_call(_outbox(buses, name), 'purge', days * _DAY, dead_letters=dead)} removed")

    @commands.command()
    @named
    @click.option("--once", is_flag=True, help="Deliver what is due now, and end.")
    def relay(name: str | None, once: bool) -> None:
        """Deliver events to the handlers of this app until SIGTERM or SIGINT."""
        outbox = _heard(_outbox(buses, name))
        if once:
            click.echo(f"{_call(outbox, 'run_once')} claimed")
        else:
            _relay(outbox)

    return commands


def _put_back(count: int, event_ids: tuple[str, ...]) -> str:
    """Return what came of a replay; who names letters that are not there has mistaken them."""
    if event_ids and not count:
        raise click.ClickException(f"no dead letter has the id {' or '.join(event_ids)}")
    return f"{count} put back"


def _outbox(buses: Mapping[str, Any], name: str | None) -> Any:
    """Return the outbox of a bus, which may be left unnamed if it is the only one."""
    found = {
        key: bus.transport for key, bus in buses.items() if hasattr(getattr(bus, "transport", None), "relay")
    }
    if not found:
        raise click.UsageError(
            "no bus of this app has an outbox: PaintKit(app, bus=EventBus(transport=Outbox(db)))"
        )
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        raise click.UsageError(f"say --bus with one of {', '.join(sorted(found))}")
    return found[name]


def _heard(outbox: Any) -> Any:
    """Return an outbox whose bus has handlers here."""
    try:
        outbox.receivers()
    except RuntimeError as error:
        raise click.ClickException(str(error)) from error
    return outbox


def _call(outbox: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    """Call a method of an outbox of either colour; an error that says what to do says that alone."""
    try:
        if not outbox.db.is_async:
            return getattr(outbox, method)(*args, **kwargs)
        return loops.run(outbox.db, lambda: getattr(outbox, f"a{method}")(*args, **kwargs))
    except Exception as error:
        if notes := getattr(error, "__notes__", ()):
            raise click.ClickException("; ".join(notes)) from error
        raise


def _relay(outbox: Any) -> None:
    """Run a relay; a signal lets the handler at work finish, a second one does not."""
    relay = outbox.relay()
    signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in signals}

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, before[number])
        relay.stop()

    for number in signals:
        signal.signal(number, stop)
    try:
        click.echo(f"relay of {outbox.name}: running")
        if outbox.db.is_async:
            loops.run(outbox.db, relay.arun)
        else:
            relay.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _letter(letter: Any) -> dict[str, Any]:
    event = letter.event
    return {
        "id": event.id,
        "type": event.type,
        "data": event.data,
        "attempts": event.attempts,
        "error": letter.error,
        "died_at": letter.died_at.isoformat(),
    }
