"""The laws of arguments that hold for all primitives: similar mistakes are told alike."""

import inspect
import math

import pytest

from paintkit import (
    CacheManager,
    ErrorRecoveryManager,
    bulkhead,
    circuit_breaker,
    deadline,
    fallback,
    hedge,
    rate_limit,
    retry,
    timeout,
)
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


recovery = ErrorRecoveryManager()

#: What makes decorators, and what its error tells to write instead of `@retry` and so on.
MAKERS = [
    (retry, "`on`", "@retry(on=...)"),
    (circuit_breaker, "parentheses", "@circuit_breaker()"),
    (timeout, "`seconds`", "@timeout(2.0)"),
    (deadline, "`seconds`", "@deadline(2.0)"),
    (bulkhead, "`limit`", "@bulkhead(8)"),
    (rate_limit, "`rate`", "@rate_limit(50, per=1.0)"),
    (hedge, "`idempotent`", "@hedge(idempotent=True)"),
    (fallback, "`on`", "@fallback(value, on=...)"),
    (recovery.with_retry, "parentheses", "@recovery.with_retry()"),
    (recovery.circuit_breaker, "parentheses", "@recovery.circuit_breaker()"),
]


@pytest.mark.parametrize(
    ("make", "needs", "instead"), MAKERS, ids=[f"{one[0].__module__}.{one[0].__name__}" for one in MAKERS]
)
def test_a_decorator_that_is_used_bare_tells_what_to_write(make, needs, instead, colour):
    """`@retry` alone is a `TypeError` that names what is missing, on whatever it stands."""
    function = colour.function(lambda: 1)
    for decorated in (function, classmethod(function), staticmethod(function)):
        with pytest.raises(TypeError) as caught:
            make(decorated)
        message = str(caught.value)
        assert message.startswith(f"{instead.partition('(')[0]} needs {needs}")
        assert message.endswith(f": write {instead}")


def test_what_is_missing_is_told_by_python():
    """Without anything to decorate there is no doubt; and signatures say what is required."""
    for make, name in ((retry, "on"), (hedge, "idempotent"), (fallback, "on"), (bulkhead, "limit")):
        with pytest.raises(TypeError, match=rf"{make.__name__}\(\) missing 1 required .* argument: '{name}'"):
            make()
        assert inspect.signature(make).parameters[name].default is inspect.Parameter.empty


def test_a_function_may_be_what_is_fallen_back_to(colour):
    """It says on what: so it was not used bare."""

    def fail():
        raise OSError("away")

    assert str is colour.call(fallback(str, on=OSError)(colour.function(fail)))
