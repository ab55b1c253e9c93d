"""Policies whose options change while they are at work."""

import threading

import pytest

from paintkit import (
    BulkheadFullError,
    ErrorRecoveryManager,
    RateLimitedError,
    backoff,
    bulkhead,
    circuit_breaker,
    observe,
    rate_limit,
    retry,
    timeout,
)
from paintkit.machines.breaker import CircuitState
from paintkit.testing import FakeClock


def fail():
    """Do what a dead dependency does."""
    raise ConnectionError


def test_retry_makes_other_attempts(colour):
    """Functions that were decorated before obey."""
    calls = []
    policy = retry(on=ConnectionError, attempts=2, backoff=backoff.constant(0))
    protected = policy(colour.function(lambda: calls.append(None) or fail()))

    policy.reconfigure(attempts=5)
    with pytest.raises(ConnectionError):
        colour.call(protected)

    assert 5 == len(calls)


def test_a_breaker_gets_another_threshold_and_timeout(colour):
    """Its state stays."""
    with FakeClock() as clock:
        policy = circuit_breaker("supplier", failure_threshold=5, recovery_timeout=60.0)
        protected = policy(colour.function(fail))

        policy.reconfigure(failure_threshold=2, recovery_timeout=5.0)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                colour.call(protected)

        assert CircuitState.OPEN is policy.state
        clock.advance(5.0)
        assert CircuitState.HALF_OPEN is policy.state


def test_a_rate_gets_other_limits(colour):
    """The window keeps what it has seen."""
    policy = circuit_breaker("supplier", min_calls=100)
    protected = policy(colour.function(fail))
    for _ in range(10):
        with pytest.raises(ConnectionError):
            colour.call(protected)

    policy.reconfigure(min_calls=11)
    with pytest.raises(ConnectionError):
        colour.call(protected)

    assert CircuitState.OPEN is policy.state


def test_a_bulkhead_grows(colour):
    """At once."""
    policy = bulkhead(1)
    protected = policy(colour.function(lambda: "done"))

    with policy.hold():
        with pytest.raises(BulkheadFullError):
            colour.call(protected)
        policy.reconfigure(limit=2)
        assert "done" == colour.call(protected)


def test_a_bulkhead_shrinks_as_calls_end():
    """Permits that are out are taken back when they come; nobody is interrupted."""
    policy = bulkhead(3)
    inside, leave = threading.Barrier(4), threading.Event()

    @policy
    def work():
        inside.wait(10)
        leave.wait(10)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    policy.reconfigure(limit=1)
    leave.set()
    for thread in threads:
        thread.join(10)

    with policy.hold(), pytest.raises(BulkheadFullError), policy.hold():
        pass
    assert (1, 0) == policy.metrics()[:2]


def test_a_rate_limit_changes_its_rate(colour):
    """Also for keys that have a bucket already."""
    with FakeClock() as clock:
        policy = rate_limit(1, per=60.0, key=lambda host: host)
        protected = policy(colour.function(lambda host: host))
        colour.call(protected, "a")

        policy.reconfigure(per=2.0)
        clock.advance(2.0)

        assert "a" == colour.call(protected, "a")
        with pytest.raises(RateLimitedError) as caught:
            colour.call(protected, "a")
        assert 2.0 == pytest.approx(caught.value.retry_after)


@pytest.mark.parametrize(
    ("policy", "options", "error"),
    [
        (retry(on=OSError), {"attempts": 0}, ValueError),
        (retry(on=OSError), {"attempts": "3"}, TypeError),
        (retry(on=OSError), {"on_result": bool}, ValueError),
        (retry(on=OSError), {"tempo": 3}, ValueError),
        (circuit_breaker(failure_threshold=3), {"window": 5.0}, ValueError),
        (circuit_breaker(failure_threshold=3), {"min_calls": 5}, ValueError),
        (circuit_breaker(failure_threshold=3), {"probes": 0}, ValueError),
        (rate_limit(5), {"rate": -1}, ValueError),
        (timeout(2.0), {"seconds": 3.0}, ValueError),
    ],
    ids=str,
)
def test_what_cannot_change_is_refused(policy, options, error):
    """And nothing has changed."""
    before = repr(policy)

    with pytest.raises(error, match=next(iter(options))):
        policy.reconfigure(**options)

    assert before == repr(policy)


def test_observers_hear_of_it():
    """What changed, and whose."""
    seen = []
    policy = retry(on=OSError, name="supplier")

    with observe(seen.append):
        policy.reconfigure(attempts=7)

    assert [("policy.reconfigured", "supplier", {"attempts": 7})] == seen


def test_a_registry_keeps_other_policies_too():
    """For pages and the command line."""
    recovery = ErrorRecoveryManager()
    renderer = recovery.add(bulkhead(2, name="renderer"))

    assert renderer is recovery.add(renderer)
    assert {"limit": 2, "running": 0, "waiting": 0, "rejected": 0} == recovery.get_stats()["policies"][
        "renderer"
    ]
    with pytest.raises(ValueError, match="renderer"):
        recovery.add(bulkhead(3, name="renderer"))
    with pytest.raises(TypeError, match="policy"):
        recovery.add("renderer")


def test_a_registry_is_bounded():
    """A name for every call is a mistake, and is told."""
    recovery = ErrorRecoveryManager()
    for number in range(1_000):
        recovery.with_retry(name=f"call {number}")

    with pytest.raises(ValueError, match="dependencies"):
        recovery.with_retry(name="one more")
