"""Observations as log records."""

import enum
import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import backoff, observations, retry
from paintkit.monitor import logging as ours
from paintkit.monitor.details import on_one_line, plain
from paintkit.monitor.logging import LEVELS, JsonFormatter, log_observations
from paintkit.testing import FakeClock


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def kept():
    """What arrives at the logger named `studio`."""
    handler, logger = Kept(), logging.getLogger("studio")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield handler.records
    logger.removeHandler(handler)
    logger.propagate = True


def test_an_observation_becomes_a_record(colour, kept):
    """A message for people, its parts for machines, in both colours."""
    answers = iter([ConnectionError("busy"), "ready"])

    def fetch():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    again = retry(on=ConnectionError, attempts=2, backoff=backoff.constant(0), name="printer")
    with log_observations("studio"):
        assert "ready" == colour.call(again(colour.function(fetch)))
    (record,) = kept
    assert logging.INFO == record.levelno
    assert record.getMessage().startswith("retry.waiting printer: error=ConnectionError: busy")
    assert ("retry.waiting", "printer", 0) == (record.kind, record.source, record.suppressed)
    assert "ConnectionError: busy" == record.details["error"]


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("retry.gave_up", "WARNING"),
        ("event_bus.handler_failed", "ERROR"),
        ("outbox.dead", "ERROR"),
        ("outbox.retrying", "WARNING"),
        ("cache.invalidated", "INFO"),
        ("retry.waiting", "DEBUG"),
        ("studio.sold", "CRITICAL"),
    ],
)
def test_the_level_comes_from_the_kind_then_from_the_primitive(kind, level, kept):
    """What is not in the table is INFO."""
    with log_observations("studio", levels={**LEVELS, "retry": logging.DEBUG, "studio": logging.CRITICAL}):
        observations.emit(kind, "x")
    assert [level] == [record.levelname for record in kept]


def test_a_flood_is_cut_and_counted(kept):
    """By kind and source; the first record afterwards says how many were left out."""
    with FakeClock() as clock, log_observations("studio", most=2, per=60.0):
        for _ in range(5):
            observations.emit("circuit_breaker.rejected", "supplier")
        observations.emit("circuit_breaker.rejected", "printer")
        observations.emit("retry.waiting", "supplier")
        clock.advance(60.0)
        observations.emit("circuit_breaker.rejected", "supplier")
    assert [("supplier", 0), ("supplier", 0), ("printer", 0), ("supplier", 0), ("supplier", 3)] == [
        (record.source, record.suppressed) for record in kept
    ]
    assert "3 more were not logged" in kept[-1].getMessage()


def test_the_books_of_the_limit_are_bounded(kept, monkeypatch):
    """Names that are made up per call share one limit."""
    monkeypatch.setattr(ours, "_MOST", 3)
    with log_observations("studio", most=1):
        for number in range(9):
            observations.emit("retry.waiting", f"call {number}")
    assert 4 == len(kept)


def test_what_the_logger_does_not_want_uses_up_no_limit(kept):
    """A level below the logger's own is not even looked at."""
    logging.getLogger("studio").setLevel(logging.ERROR)
    with log_observations("studio", most=1):
        observations.emit("retry.waiting", "supplier")
        logging.getLogger("studio").setLevel(logging.INFO)
        observations.emit("retry.waiting", "supplier")
    assert [0] == [record.suppressed for record in kept]


def test_control_characters_are_escaped(kept):
    """A name cannot forge a second line of the log."""
    with log_observations("studio"):
        observations.emit(
            "retry.waiting", "supplier\r\nERROR root: all is lost", note="a\x1b[2Jb\u2028c\u202ed"
        )
    (record,) = kept
    assert "supplier\\r\\nERROR root: all is lost" == record.source
    assert record.getMessage().isprintable()
    assert "a\\x1b[2Jb\\u2028c\\u202ed" == record.details["note"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:s3cret@db/studio", "postgresql://me:***@db/studio"),
        ("postgresql://me:p@ss:w/rd@db/studio", "postgresql://me:***@db/studio"),
        ("redis://:s3cret@cache:6379/0 is down", "redis://:***@cache:6379/0 is down"),
        ("https://api.example/x?token=s3cret&page=2", "https://api.example/x?token=***&page=2"),
        ("host=db password=s3cret user=me", "host=db password=*** user=me"),
        ("{'password': 's3cret', 'user': 'me'}", "{'password': ***, 'user': 'me'}"),
        ("http://localhost:8080/ and me@example.org", "http://localhost:8080/ and me@example.org"),
    ],
)
def test_passwords_are_not_shown(text, shown):
    """Of URLs, query strings and connection strings."""
    assert shown == on_one_line(text)


@given(st.text())
def test_any_text_fits_on_a_line(text):
    """Printable, and no longer than is worth showing."""
    shown = on_one_line(text)
    assert shown.isprintable()
    assert len(shown) <= 500


def test_details_become_plain_values():
    """Numbers stay, errors tell their type, what is absent is left out."""

    class State(enum.Enum):
        OPEN = "open"

    given_details = {"a": 1, "b": True, "c": 0.5, "d": None, "e": State.OPEN, "f": KeyError(), "g": ("x", 1)}
    assert {"a": 1, "b": True, "c": 0.5, "e": "open", "f": "KeyError", "g": "('x', 1)"} == plain(
        given_details
    )


def test_what_cannot_be_printed_is_told_all_the_same():
    """A value whose text is not to be had hides nothing else."""

    class Broken(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    assert {"a": 1, "b": "Broken: <unprintable>"} == plain({"a": 1, "b": Broken()})


def test_json_has_words_for_numbers_that_it_does_not_know(kept):
    """`inf` and `nan` become texts: a reader of JSON would refuse the line."""

    def refused(constant):
        raise ValueError(constant)

    formatter = JsonFormatter()
    with log_observations("studio"):
        observations.emit("retry.waiting", "supplier", delay=float("inf"), rate=float("nan"), attempt=2)
    entry = json.loads(formatter.format(kept[0]), parse_constant=refused)
    assert {"delay": "inf", "rate": "nan", "attempt": 2} == entry["details"]


def test_json_is_one_line_with_all_parts(kept):
    """Whatever the record holds; records of others have fewer parts."""
    formatter = JsonFormatter()
    with log_observations("studio", most=1):
        observations.emit("pool.exhausted", "pool", capacity=15, note='a "quoted" line\n')
    try:
        raise OSError("disk")
    except OSError:
        logging.getLogger("studio").exception("failed %d", 3)
    first, second = [json.loads(formatter.format(record)) for record in kept]
    assert "\n" not in formatter.format(kept[0])
    assert ("ERROR", "studio", "pool.exhausted", "pool") == (
        first["level"],
        first["logger"],
        first["kind"],
        first["source"],
    )
    assert {"capacity": 15, "note": 'a "quoted" line\\n'} == first["details"]
    assert first["time"].endswith("+00:00")
    assert "failed 3" == second["message"]
    assert "OSError: disk" in second["exception"]


def test_a_failing_handler_breaks_no_call(kept):
    """A log that cannot be written is not the caller's business."""

    class Broken(logging.Handler):
        def handle(self, record):
            raise OSError("disk full")

    logging.getLogger("studio").addHandler(broken := Broken())
    try:
        with log_observations("studio"):
            observations.emit("retry.waiting", "supplier")
    finally:
        logging.getLogger("studio").removeHandler(broken)
    assert 1 == len(kept)


def test_after_the_end_nothing_is_logged(kept):
    """The registration is taken back."""
    with log_observations("studio"):
        pass
    observations.emit("retry.waiting", "supplier")
    assert [] == kept


@pytest.mark.parametrize(
    ("options", "kind", "named"),
    [
        ({"logger": 3}, TypeError, "logger"),
        ({"most": 0}, ValueError, "most"),
        ({"per": 0}, ValueError, "per"),
        ({"levels": {"retry": "loud"}}, TypeError, "retry"),
    ],
)
def test_a_mistake_is_told_at_once(options, kind, named):
    """And nothing is registered."""
    before = observations.observers
    with pytest.raises(kind, match=named):
        log_observations(**options)
    assert before == observations.observers


def test_the_module_takes_nobodys_name():
    """`import logging` in our package is the standard library's."""
    assert logging is sys.modules["logging"] is ours.logging
