"""What servers say about retrying."""

import urllib.error
from datetime import UTC, datetime
from email.message import Message
from types import SimpleNamespace

import pytest
from werkzeug.datastructures import Headers
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response

from paintkit import RateLimitedError, backoff, retry, retry_after_from
from paintkit.testing import FakeClock

NOON = "Mon, 23 Nov 2026 12:00:00 GMT"


def response(value, **others):
    """Whatever has headers."""
    return SimpleNamespace(headers=Headers({"Retry-After": value, **others}))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("2.5", 2.5),
        ("-3", None),
        ("soon", None),
        ("", None),
        ("1e9", None),
    ],
)
def test_seconds(value, seconds):
    """A number of seconds is taken as it is; nonsense says nothing."""
    assert seconds == retry_after_from(response(value))


def test_a_date_counts_from_the_servers_own():
    """Its clock and ours may differ."""
    assert 90.0 == retry_after_from(response("Mon, 23 Nov 2026 12:01:30 GMT", Date=NOON))


def test_a_date_in_the_past_is_no_wait():
    """Never negative."""
    assert 0.0 == retry_after_from(response("Mon, 23 Nov 2026 11:00:00 GMT", Date=NOON))


def test_a_date_alone_counts_from_now():
    """As well as it can be done."""
    assert retry_after_from(response("Fri, 01 Jan 2100 00:00:00 GMT")) > 86_400


@pytest.mark.parametrize(
    "source",
    [
        Response(headers={"Retry-After": "9"}),
        SimpleNamespace(response=response("9")),
        ServiceUnavailable(retry_after=9),
        RateLimitedError("supplier", 9.0),
    ],
    ids=["response", "exception with a response", "werkzeug exception", "refusal of ours"],
)
def test_sources(source):
    """Responses, and exceptions that carry one or the number itself."""
    assert 9.0 == retry_after_from(source)


def test_urllib_error():
    """It carries the headers itself."""
    headers = Message()
    headers["Retry-After"] = "9"

    with urllib.error.HTTPError("http://x", 503, "busy", headers, None) as error:
        assert 9.0 == retry_after_from(error)


def test_a_moment_of_werkzeug():
    """`retry_after` may be a datetime there."""
    assert retry_after_from(ServiceUnavailable(retry_after=datetime(2100, 1, 1, tzinfo=UTC))) > 86_400


@pytest.mark.parametrize(
    "source", [None, object(), SimpleNamespace(headers={}), SimpleNamespace(retry_after=True)]
)
def test_nothing_said(source):
    """No header, no hint."""
    assert retry_after_from(source) is None


def test_retry_follows_it():
    """The wait is never shorter than the server asked for, and at most 10 % longer."""
    replies = iter([response("5"), "ready"])
    policy = retry(
        on=ConnectionError,
        on_result=lambda reply: reply != "ready",
        backoff=backoff.constant(0),
        retry_after=retry_after_from,
    )

    with FakeClock() as clock:
        assert "ready" == policy.call(lambda: next(replies))

    (slept,) = clock.sleeps
    assert 5.0 <= slept <= 5.5
