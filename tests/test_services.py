"""A service that is absent skips its tests, unless it was required."""

import pytest

from tests import services

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the search for Redis to a port on which nothing listens."""
    monkeypatch.setenv("PAINTKIT_REDIS_URL", NOWHERE)


def test_absent_service_skips(monkeypatch: pytest.MonkeyPatch):
    """An unreachable service skips with its address and the variable that names another."""
    monkeypatch.setenv("PAINTKIT_REQUIRE", "")

    with pytest.raises(pytest.skip.Exception, match=rf"{NOWHERE}.*PAINTKIT_REDIS_URL"):
        services.place("redis")


def test_absent_but_required_service_fails(monkeypatch: pytest.MonkeyPatch):
    """An unreachable service that is required fails the test."""
    monkeypatch.setenv("PAINTKIT_REQUIRE", "postgres, redis")

    with pytest.raises(pytest.fail.Exception, match="required by PAINTKIT_REQUIRE"):
        services.place("redis")


def test_unknown_requirement_is_an_error(monkeypatch: pytest.MonkeyPatch):
    """A requirement that nobody knows is a mistake, not a wish granted."""
    monkeypatch.setenv("PAINTKIT_REQUIRE", "postgers")

    with pytest.raises(pytest.UsageError, match="postgers"):
        services.place("redis")
