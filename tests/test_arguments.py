"""The laws of arguments that hold for all primitives: similar mistakes are told alike."""

import math

import pytest

from paintkit import CacheManager, circuit_breaker, retry
from paintkit.sqlalchemy import DatabaseConnectionManager, FromCache, Outbox, PoolConfig, QueryCache
from paintkit.testing import FakeLevel


def database():
    return DatabaseConnectionManager("sqlite://")


ENDLESS = [
    ("timeout", lambda: CacheManager(timeout=math.inf)),
    ("timeout", lambda: CacheManager().cache_result(timeout=math.inf)),
    ("timeout", lambda: CacheManager().cache_result(math.inf)),
    ("timeout", lambda: CacheManager().cache_many(timeout=math.inf)),
    ("loader_timeout", lambda: CacheManager().cache_result(loader_timeout=math.inf)),
    ("soft_timeout", lambda: CacheManager().cache_result(soft_timeout=math.inf, stale_on_error=5)),
    ("max_unverified", lambda: CacheManager(level2=FakeLevel(), max_unverified=math.inf)),
    ("timeout", lambda: FromCache(timeout=math.inf)),
    ("timeout", lambda: QueryCache(database(), CacheManager(), timeout=math.inf)),
    ("max_elapsed", lambda: retry(on=OSError, max_elapsed=math.inf)),
    ("slow_call_duration", lambda: circuit_breaker(slow_call_duration=math.inf)),
    ("timeout", lambda: database().unit_of_work(timeout=math.inf)),
    ("timeout", lambda: database().with_database_session(timeout=math.inf)),
    *(
        (name, lambda name=name: PoolConfig(**{name: math.inf}))
        for name in (
            "response_timeout",
            "statement_timeout",
            "lock_timeout",
            "idle_in_transaction_timeout",
            "leak_threshold",
        )
    ),
    ("dead_letters", lambda: Outbox(database()).purge(dead_letters=math.inf)),
]


@pytest.mark.parametrize(("name", "act"), ENDLESS, ids=range(len(ENDLESS)))
def test_who_wants_no_end_is_told_what_has_none(name, act):
    """Infinity is no number of seconds; where `None` is what was meant, the error says so."""
    with pytest.raises(
        ValueError, match=rf"^{name} \(in seconds\) must be finite, not inf: pass None, which "
    ):
        act()


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_else_is_not_finite_is_no_wish_for_no_end(value):
    """It is a mistake."""
    with pytest.raises(ValueError, match=r"must be finite, not -?(nan|inf)$"):
        CacheManager(timeout=value)
