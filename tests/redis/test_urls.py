"""A server's address that cannot be right is refused where it is given."""

import pytest

from paintkit.redis import RedisBreakerState, RedisLevel, RedisLimits, RedisStreams
from paintkit.redis.urls import checked

EVERY = [RedisBreakerState, RedisLevel, RedisLimits, RedisStreams]


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("localhost:6379", "schemes"),
        ("http://localhost", "schemes"),
        ("redis://localhost:port/0", "Port"),
        ("redis://localhost/paints", "its database is no number"),
        ("redis://localhost/-1", "its database is no number"),
        ("redis://localhost/0?db=paints", "'db'"),
        ("redis://localhost/0?no_such_option=1", "'no_such_option'"),
        ("rediss://localhost?ssl_cert_reqs=perhaps", "perhaps"),
        ("redis://localhost?socket_timeout=60", "'socket_timeout' is not for the URL to set"),
        ("redis://localhost?socket_connect_timeout=60", "'socket_connect_timeout' is not for the URL to set"),
        ("redis://localhost?db=1&protocol=3", "'protocol' is not for the URL to set"),
        ("redis://localhost?decode_responses=False", "'decode_responses' is not for the URL to set"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_its_fault(kind, url, fault):
    """Otherwise an unknown option would fail every call, and a database that is no number would be number 0.

    An option that paintkit sets itself would be another than it says.
    """
    with pytest.raises(ValueError, match=r"^url must be like 'redis://localhost:6379/0', not ") as raised:
        kind(url)

    assert fault in str(raised.value)
    assert repr(url) in str(raised.value)


@pytest.mark.parametrize("kind", EVERY)
def test_a_url_is_a_string(kind):
    """Such as a setting that is not there."""
    with pytest.raises(TypeError, match=r"^url must be a string, not None"):
        kind(None)


@pytest.mark.parametrize(
    "url",
    ["redis://user:p%40ss@localhost/x", "redis://:p%40ss@localhost/x", "redis://localhost/x?password=p%40ss"],
)
def test_no_password_is_told(url):
    """Errors end up in logs."""
    with pytest.raises(ValueError, match=r"\*\*\*") as raised:
        checked(url)

    assert "p%40ss" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://localhost",
        "redis://localhost:6379/",
        "redis://user:secret@localhost:6379/9",
        "rediss://localhost?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=1",
        "redis://localhost?db=2&client_name=studio",
    ],
)
def test_what_redis_takes_is_taken(url):
    """Without a connection."""
    assert url == checked(url)
