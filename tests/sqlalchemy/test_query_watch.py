"""What runs once for each row in production: a sample of blocks, one report for each line and hour."""

import contextlib
import logging
import random

import pytest
from flask import Flask
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import StaticPool

from paintkit import observations
from paintkit.sqlalchemy import QueryWatch, query_guard
from paintkit.sqlalchemy.flask import query_watch
from paintkit.sqlalchemy.queries import _note
from paintkit.testing import FakeClock
from tests.sqlalchemy.house import told as logged


@pytest.fixture
def fake():
    with FakeClock() as fake_clock:
        yield fake_clock


@pytest.fixture
def connection(fake):
    """A connection whose statements take a virtual 10 ms each."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.connect() as opened:
        opened.connection.driver_connection.create_function("work", 1, lambda n: (fake.advance(0.01), n)[1])
        yield opened


@pytest.fixture
def told(caplog):
    found = []
    with observations.observe(lambda one: found.append(one) if one.kind.startswith("query_watch") else None):
        yield found


def loop(connection, times):
    for number in range(times):
        connection.execute(text("SELECT work(:number)"), {"number": number * 7 % 5})


def other_loop(connection, times):
    for number in range(times):
        connection.execute(text("SELECT work(:number)"), {"number": number * 7 % 5})


def test_a_loop_is_told_with_its_line_and_its_cost(connection, told, caplog):
    """As a warning with the cure, and as an observation."""
    with QueryWatch(sample=1.0, name="shop") as watch, watch.block("GET paints"):
        loop(connection, 5)
    [one] = told
    assert ("shop", "GET paints", "select", 5) == (
        one.source,
        one.details["block"],
        one.details["kind"],
        one.details["times"],
    )
    assert pytest.approx(0.05) == one.details["seconds"]
    assert "test_query_watch.py" in one.details["site"]
    assert "GET paints: 5 × repeated select" in caplog.text
    assert "ask once for all" in caplog.text
    assert [logging.WARNING] == [record.levelno for record in logged(caplog)]


@pytest.mark.parametrize(("times", "min_seconds"), [(4, 0.0), (5, 0.051)])
def test_what_is_rare_or_quick_is_not_told(connection, told, times, min_seconds):
    """Four are no loop, and one that takes no time does no harm."""
    with QueryWatch(sample=1.0, min_seconds=min_seconds) as watch, watch.block():
        loop(connection, times)
    assert [] == told


def test_a_line_is_told_of_once_in_an_hour(connection, told, fake):
    """Another line is news."""
    with QueryWatch(sample=1.0) as watch:
        for code in (loop, loop, other_loop, loop):
            with watch.block():
                code(connection, 6)
        assert 2 == len(told)
        fake.advance(3600.0)
        with watch.block():
            loop(connection, 6)
    assert 3 == len(told)
    assert 2 == len({one.details["site"] for one in told})


def test_lines_that_are_remembered_are_bounded(connection, told, monkeypatch):
    """Generated code cannot fill the memory: the oldest line is forgotten."""
    monkeypatch.setattr("paintkit.sqlalchemy.query_watch._MOST_SITES", 1)
    with QueryWatch(sample=1.0) as watch:
        for code in (loop, other_loop, loop):
            with watch.block():
                code(connection, 6)
        assert 1 == len(watch._told)
    assert 3 == len(told)


def test_statements_that_are_remembered_are_bounded(connection, told, monkeypatch):
    """A block that runs a million statements is no reason to keep them all."""
    monkeypatch.setattr("paintkit.sqlalchemy.query_watch._MOST_STATEMENTS", 7)
    with QueryWatch(sample=1.0) as watch, watch.block():
        loop(connection, 20)
    assert [7] == [one.details["times"] for one in told]


def test_a_share_of_blocks_is_looked_at(connection):
    """By chance, so that every kind of request has its turn."""
    with QueryWatch(sample=0.1, rng=random.Random(7)) as watch:
        guards = []
        for _ in range(1_000):
            guard = watch.begin()
            watch.end(guard)
            guards.append(guard)
    assert 70 < sum(guard is not None for guard in guards) < 130


def test_off_means_that_nothing_listens(connection, told):
    """Before the first watch and after the last."""
    assert not event.contains(type(connection.engine), "before_cursor_execute", _note)
    watch = QueryWatch(sample=1.0)
    assert event.contains(type(connection.engine), "before_cursor_execute", _note)
    watch.close()
    watch.close()
    assert not event.contains(type(connection.engine), "before_cursor_execute", _note)
    with watch.block():
        loop(connection, 9)
    assert [] == told


def test_a_block_that_fails_is_told_of_too_and_its_error_passes(connection, told):
    """No block is ever failed by being looked at; nor does a guard inside miss anything."""
    with QueryWatch(sample=1.0) as watch:
        with pytest.raises(KeyError), watch.block():
            loop(connection, 6)
            raise KeyError
        with watch.block(), query_guard(repeat_threshold=None) as guard:
            other_loop(connection, 6)
    assert (2, 6) == (len(told), len(guard.statements))


def test_requests_of_an_app_are_watched(connection, told):
    """Each by itself, under its method and endpoint; also one that fails."""
    app = Flask("shop")

    @app.get("/paints")
    def paints():
        loop(connection, 6)
        raise ValueError

    @app.get("/few")
    def few():
        loop(connection, 3)
        return "few"

    with query_watch(app, QueryWatch(sample=1.0)), app.test_client() as client:
        client.get("/few")
        client.get("/few")
        with contextlib.suppress(ValueError):
            client.get("/paints")
    assert ["GET paints"] == [one.details["block"] for one in told]
    with pytest.raises(TypeError, match="watch must be a QueryWatch"):
        query_watch(app, 0.1)


@pytest.mark.parametrize(
    ("options", "kind", "named"),
    [
        ({"sample": 0}, ValueError, "sample"),
        ({"sample": 1.1}, ValueError, "sample"),
        ({"repeat_threshold": 1}, ValueError, "repeat_threshold"),
        ({"min_seconds": -1}, ValueError, "min_seconds"),
        ({"every": 0}, ValueError, "every"),
        ({"name": ""}, ValueError, "name"),
    ],
)
def test_senseless_arguments_are_refused_and_nothing_listens(connection, options, kind, named):
    """The error names the argument; nothing half-done stays behind."""
    with pytest.raises(kind, match=named):
        QueryWatch(**options)
    assert not event.contains(type(connection.engine), "before_cursor_execute", _note)
