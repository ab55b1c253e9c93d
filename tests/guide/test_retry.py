import inspect
import io
import sys
import threading
from random import Random

import pytest
from sqlalchemy import exc, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from paintkit import (
    CacheManager,
    CircuitOpenError,
    ErrorRecoveryManager,
    EventBus,
    ambient,
    backoff,
    observe,
    retry,
)
from paintkit.sqlalchemy import DatabaseConnectionManager, is_transient
from paintkit.testing import FakeClock
from tests.colours import Colour


class Base(DeclarativeBase):
    pass


class Paint(Base):
    __tablename__ = "guide_retry_paint"
    id: Mapped[int] = mapped_column(primary_key=True)
    stock: Mapped[int]


class Failing:
    """Fails a number of times, then answers; counts its calls."""

    def __init__(self, times: int, error: type[Exception] | Exception = ConnectionError) -> None:
        self.left = times
        self.error = error
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "rows"


def body_of(failing: Failing):
    """Return a plain function, as a user would write one."""

    def load() -> str:
        return failing()

    return load


def test_nothing_is_printed_where_only_ascii_can_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 25: hits, misses, retries, opened circuits and failing handlers print nothing; what is to be told is logged."""
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", narrow)
    cache, recovery, bus = CacheManager(), ErrorRecoveryManager(), EventBus()
    load = cache.cache_result()(recovery.with_retry()(body_of(Failing(2))))
    broken = recovery.circuit_breaker(failure_threshold=1)(body_of(Failing(1)))
    bus.subscribe("paint.created", lambda data: data["missing"])

    with FakeClock():
        load()
        load()
        with pytest.raises(ConnectionError):
            broken()
        with pytest.raises(CircuitOpenError):
            broken()
        bus.publish("paint.created", {})
    narrow.flush()

    assert b"" == narrow.buffer.getvalue()
    assert ["paintkit.events"] == [record.name for record in caplog.records]


@pytest.mark.parametrize(
    "error",
    [
        exc.OperationalError(
            "SELECT 1", {}, ConnectionResetError("server closed"), connection_invalidated=True
        ),
        exc.TimeoutError("QueuePool limit of size 5 overflow 10 reached"),
    ],
    ids=["lost connection", "exhausted pool"],
)
def test_a_transient_database_error_is_retried(colour: Colour, error: Exception) -> None:
    """Row 27: SQLAlchemy's errors are no builtin ConnectionError or TimeoutError; the classifier knows them."""
    failing = Failing(1, error)
    assert not isinstance(error, ConnectionError | TimeoutError)
    load = ErrorRecoveryManager().with_retry(exceptions=is_transient)(colour.function(body_of(failing)))

    with FakeClock():
        assert "rows" == colour.call(load)
    assert 2 == failing.calls


def test_each_attempt_gets_a_unit_of_work_of_its_own() -> None:
    """Row 28: after a failed flush the session is not used again; the next attempt begins with a fresh one."""
    db = DatabaseConnectionManager("sqlite://")
    Base.metadata.create_all(db.engine)
    sessions = []

    @retry(on=exc.IntegrityError, attempts=2, backoff=backoff.constant(0))
    @db.with_database_session
    def add() -> int:
        sessions.append(db.session)
        db.session.add(Paint(id=1, stock=1))
        db.session.flush()
        if len(sessions) == 1:
            db.session.execute(insert(Paint).values(id=1, stock=2))
        return db.session.get_one(Paint, 1).stock

    assert 1 == add()
    assert sessions[0] is not sessions[1]
    db.close()


def test_a_negative_number_of_retries_is_refused() -> None:
    """Row 29: `max_retries=-1` is an error that names it, at the decorator's call; it used to return None for ever."""
    with pytest.raises(ValueError, match=r"max_retries must be at least 0, not -1"):
        ErrorRecoveryManager().with_retry(max_retries=-1)


def test_a_coroutine_function_is_retried_like_any_other() -> None:
    """Row 30: its failures come when it is awaited, and that is where they are caught."""
    failing = Failing(3)
    load = ErrorRecoveryManager().with_retry(max_retries=3)(Colour.ASYNCIO.function(body_of(failing)))

    assert inspect.iscoroutinefunction(load)
    with FakeClock() as clock:
        assert "rows" == clock.run(load())
    assert 4 == failing.calls


def test_what_to_retry_has_to_be_said(colour: Colour) -> None:
    """Row 31: `retry` has no default for it, and a bug outside the list is raised by the first attempt."""
    with pytest.raises(TypeError, match="on"):
        retry(attempts=3)  # type: ignore[call-arg]  # what is missing is the point
    failing = Failing(3, ValueError)
    load = retry(on=(ConnectionError, TimeoutError), attempts=5)(colour.function(body_of(failing)))

    with pytest.raises(ValueError):
        colour.call(load)

    assert 1 == failing.calls


def test_delays_are_capped_and_spread() -> None:
    """Row 32: the twentieth delay is as bounded as the first, and lies anywhere between nothing and the cap."""
    schedule = backoff.exponential(1, cap=10.0, jitter="full", rng=Random(7)).delays()

    delays = [next(schedule) for _ in range(200)]

    assert all(0 <= delay <= 10.0 for delay in delays)
    assert min(delays[4:]) < 1.0
    assert max(delays) > 9.0


def test_a_delay_that_does_not_fit_the_deadline_is_not_slept() -> None:
    """Row 32: with 5 s left, a wait of 10 s is refused at once; the worker is not blocked for nothing."""
    failing = Failing(9)
    load = retry(on=ConnectionError, attempts=9, backoff=backoff.constant(10.0))(body_of(failing))

    with FakeClock() as clock:
        due = ambient.deadline.set(clock.now() + 5.0)
        try:
            with pytest.raises(ConnectionError):
                load()
        finally:
            ambient.deadline.reset(due)
        assert 0.0 == clock.now()
    assert 1 == failing.calls


def test_the_whole_call_has_a_budget_of_time(colour: Colour) -> None:
    """Row 32: no attempt starts after `max_elapsed`, however many there might be."""
    failing = Failing(99)
    load = retry(on=ConnectionError, attempts=99, backoff=backoff.constant(1.0), max_elapsed=3.5)(
        colour.function(body_of(failing))
    )

    with FakeClock() as clock, pytest.raises(ConnectionError):
        clock.run(load()) if colour is Colour.ASYNCIO else load()

    assert 4 == failing.calls


def test_calls_at_the_same_time_do_not_share_their_attempts() -> None:
    """Row 33: two threads that fail together have all their attempts each; the totals count both."""
    recovery = ErrorRecoveryManager()
    together = threading.Barrier(2, timeout=30)
    made: dict[str, int] = {"a": 0, "b": 0}

    @recovery.with_retry(max_retries=3, backoff_base=0, name="load")
    def load(who: str) -> None:
        made[who] += 1
        together.wait()
        raise ConnectionError(who)

    def run(who: str) -> None:
        with pytest.raises(ConnectionError, match=who):
            load(who)

    threads = [threading.Thread(target=run, args=(who,)) for who in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert {"a": 4, "b": 4} == made
    assert {"load": 6} == recovery.retry_counts


def test_an_open_circuit_is_not_hammered(colour: Colour) -> None:
    """Row 34: a retry of everything around an open breaker makes one attempt, and no delay."""
    recovery = ErrorRecoveryManager()
    failing = Failing(99)
    load = recovery.with_retry(max_retries=5, name="retry")(
        recovery.circuit_breaker(failure_threshold=1, name="database")(colour.function(body_of(failing)))
    )
    seen = []

    with FakeClock() as clock, observe(seen.append):
        with pytest.raises(ConnectionError):
            clock.run(load()) if colour is Colour.ASYNCIO else load()
        seen.clear()
        with pytest.raises(CircuitOpenError):
            clock.run(load()) if colour is Colour.ASYNCIO else load()

    assert 1 == failing.calls
    assert ["circuit_breaker.rejected"] == [one.kind for one in seen if one.kind != "retry.gave_up"]
