"""Somebody sets the wall clock, by an hour, forwards or backwards: nothing that measures time notices."""

import time
from collections.abc import Callable

import pytest
import sqlalchemy.pool
from sqlalchemy import text

from paintkit import CacheManager, CircuitState, circuit_breaker, clock, deadline, rate_limit, remaining
from paintkit.errors import CircuitOpenError, RateLimitedError
from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig
from paintkit.testing import FakeClock

JUMPS = pytest.mark.parametrize("jump", [3600.0, -3600.0])


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the wall clock forwards, or backwards."""
    real = time.time

    def set_by(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return set_by


def connections_kept(set_clock: Callable[[float], None], jump: float, **options: object) -> bool:
    """Use a pool before and after the jump; return whether it is the same connection."""
    db = DatabaseConnectionManager("sqlite+pysqlite:///file:/jump?vfs=memdb&uri=true", **options)

    def driver() -> object:
        with db.engine.connect() as connection:
            connection.scalar(text("SELECT 1"))
            return connection.connection.driver_connection

    before = driver()
    set_clock(jump)
    after = driver()
    db.close()
    return before is after


@JUMPS
def test_connections_stay(set_clock: Callable[[float], None], jump: float) -> None:
    """No connection is replaced because the clock was set, though each lives 300 s only."""
    assert connections_kept(set_clock, jump, pool=PoolConfig(pool_recycle=300.0))


def test_the_test_above_notices_a_pool_that_reads_the_wall_clock(set_clock: Callable[[float], None]) -> None:
    """SQLAlchemy's own pool replaces all its connections then: the mutant of the test above."""
    options = {"poolclass": sqlalchemy.pool.QueuePool}
    assert not connections_kept(set_clock, 3600.0, engine_options=options)


@JUMPS
def test_policies_and_caches_do_not_notice(set_clock: Callable[[float], None], jump: float) -> None:
    """An open circuit stays open and closes in time, an entry lives as long as it should, tokens and deadlines stay."""
    breaker = circuit_breaker(failure_threshold=1, recovery_timeout=30.0)
    limit = rate_limit(1, per=60.0)
    cache = CacheManager("jumps", timeout=60.0)
    loads: list[int] = []

    @cache.cache_result()
    def load() -> int:
        loads.append(len(loads))
        return len(loads)

    def fail() -> None:
        raise OSError

    with FakeClock() as fake, deadline(100.0):
        with pytest.raises(OSError):
            breaker.call(fail)
        limit.call(load)
        set_clock(jump)
        assert (1, 100.0) == (load(), remaining())
        with pytest.raises(CircuitOpenError):
            breaker.call(load)
        with pytest.raises(RateLimitedError):
            limit.call(load)
        fake.advance(30.0)
        assert CircuitState.HALF_OPEN is breaker.state
        fake.advance(30.0)
        assert (2, 40.0) == (load(), remaining())
        limit.call(load)


def test_the_test_above_notices_a_policy_that_reads_the_wall_clock(
    set_clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If time were the wall clock's, an open circuit would let calls pass an hour later by that clock alone."""

    def wall() -> float:
        return time.time()  # looked up at each call, so that it can be set

    monkeypatch.setattr(clock, "now", wall)
    breaker = circuit_breaker(failure_threshold=1, recovery_timeout=30.0)
    with pytest.raises(OSError, match="supplier"):
        breaker.call(open, "/supplier")
    assert CircuitState.OPEN is breaker.state
    set_clock(3600.0)
    assert CircuitState.HALF_OPEN is breaker.state
