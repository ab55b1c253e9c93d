"""Circuit breakers that open together, and go on by themselves when Redis is away."""

import os
import subprocess
import sys
import time

import pytest
import redis

from paintkit import CircuitOpenError, circuit_breaker
from paintkit.machines.breaker import CircuitState
from paintkit.redis import RedisBreakerState
from tests.redis.conftest import PATIENCE, until

TOGETHER = 1.0  # seconds, as promised
ROUNDS = range(3)  # a pause of the machine is in one of them, a wait would be in all
UNNOTICED = 0.05  # seconds that Redis may cost a caller


@pytest.fixture
def replicas(own_redis):
    """Make what stands for one process each: a breaker with its own link."""
    links = []

    def replica(name="supplier", **options):
        link = RedisBreakerState(own_redis.url)
        links.append(link)
        options = {"failure_threshold": 2, "recovery_timeout": 3_600.0} | options
        breaker = circuit_breaker(name, shared=link, **options)
        assert link.wait_until_connected(PATIENCE)
        return breaker

    yield replica
    for link in links:
        link.close()


def fail(breaker, times=2):
    """Let calls fail."""
    for _ in range(times):
        with pytest.raises(ConnectionError):
            breaker.call(refuse)


def refuse():
    """Do what a dead dependency does."""
    raise ConnectionError


def test_they_open_together(replicas):
    """One learns that the dependency is down, and all know within a second, for as long."""
    delays = []
    for number in ROUNDS:
        first, second = replicas(f"supplier {number}"), replicas(f"supplier {number}")

        fail(first)

        delays.append(until(lambda second=second: second.state is CircuitState.OPEN))
        with pytest.raises(CircuitOpenError) as caught:
            second.call(refuse)
        assert 3_500.0 < caught.value.retry_after <= 3_600.0
    assert min(delays) < TOGETHER


def test_they_close_together(replicas):
    """The probes of one tell the others, too."""
    delays = []
    for number in ROUNDS:
        first = replicas(f"supplier {number}", recovery_timeout=0.3, probes=1)
        second = replicas(f"supplier {number}")
        fail(first)
        until(lambda second=second: second.state is not CircuitState.CLOSED)
        until(lambda first=first: first.state is CircuitState.HALF_OPEN)

        assert "up" == first.call(lambda: "up")

        delays.append(until(lambda second=second: second.state is CircuitState.CLOSED))
    assert min(delays) < TOGETHER


def test_a_late_comer_finds_it_open(replicas):
    """The open time is kept where it can be found, with what is left of it."""
    delays = []
    for number in ROUNDS:
        fail(replicas(f"supplier {number}"))

        late = replicas(f"supplier {number}")

        delays.append(until(lambda late=late: late.state is CircuitState.OPEN))
        assert 0 < late.metrics().retry_after <= 3_600.0
    assert min(delays) < TOGETHER


def test_another_process_opens_too(own_redis):
    """Really two processes."""
    code = f"""
from paintkit import circuit_breaker
from paintkit.redis import RedisBreakerState
link = RedisBreakerState({own_redis.url!r})
breakers = [circuit_breaker(f"supplier {{number}}", failure_threshold=5, shared=link) for number in {ROUNDS!r}]
assert link.wait_until_connected({PATIENCE})
print("ready", flush=True)
import time
until = time.monotonic() + {PATIENCE}
for breaker in breakers:
    while breaker.state.value != "open" and time.monotonic() < until:
        time.sleep(0.005)
    print(breaker.state.value, flush=True)
"""
    link = RedisBreakerState(own_redis.url)
    breakers = [circuit_breaker(f"supplier {number}", failure_threshold=1, shared=link) for number in ROUNDS]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert "ready\n" == other.stdout.readline()
        assert link.wait_until_connected(PATIENCE)
        delays = []
        for breaker in breakers:
            started = time.monotonic()
            fail(breaker, 1)

            assert "open\n" == other.stdout.readline()
            delays.append(time.monotonic() - started)
    assert min(delays) < TOGETHER
    link.close()


def test_what_an_operator_forced_stays(own_redis, replicas):
    """Word from others does not undo a decision of ours."""
    first, second, heard = replicas(), replicas(), []
    second._shared.join("witness", lambda *word: heard.append(word))
    second.disable()

    fail(first)
    third = replicas()
    until(lambda: third.state is CircuitState.OPEN)
    with redis.Redis(port=own_redis.port) as client:
        client.publish("paintkit:circuits", b'["x","witness","open",5]')
    until(lambda: heard)  # and all that was said before

    assert CircuitState.DISABLED is second.state


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_without_redis_nobody_waits_and_nothing_changes(own_redis, replicas, fault):
    """No error, no latency, and the breaker decides by itself as ever."""
    breaker = replicas()
    getattr(own_redis, fault)()

    fail(breaker)

    assert CircuitState.OPEN is breaker.state
    # A hiccup of the machine passes, a wait for Redis would not.
    assert any(slowest_refusal(breaker) < UNNOTICED for _ in range(20))


def slowest_refusal(breaker):
    """The longest of many calls, each of which might have something to tell the others."""
    slowest = 0.0
    for _ in range(100):
        breaker.reset()
        started = time.perf_counter()
        fail(breaker)
        with pytest.raises(CircuitOpenError):
            breaker.call(refuse)
        slowest = max(slowest, time.perf_counter() - started)
    return slowest


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_when_redis_is_back_they_hear_each_other_again(own_redis, replicas, fault):
    """And word that could not go out goes out then."""
    first, second = replicas(), replicas()
    getattr(own_redis, fault)()
    fail(first)

    if fault == "kill":
        own_redis.start()
    else:
        own_redis.wake()

    until(lambda: second.state is CircuitState.OPEN)


def test_nonsense_on_the_channel_is_ignored(own_redis, replicas):
    """Whoever can write to Redis cannot break us, nor open a circuit for ever."""
    breaker = replicas()
    with redis.Redis(port=own_redis.port) as client:
        for data in (
            b"",
            b"\xff",
            b"[]",
            b"{}",
            b"[" * 3_000,
            b'["x","supplier","open",1e300]',
            b'["x","supplier","open",NaN]',
            b"[1,2,3,4]",
        ):
            client.publish("paintkit:circuits", data)
        client.publish("paintkit:circuits", b'["x","another","open",5]')
        client.publish("paintkit:circuits", b'["x","supplier","open",60]')

    until(lambda: breaker.state is CircuitState.OPEN)
    assert breaker.metrics().retry_after <= 60.0


def test_a_breaker_that_fails_to_follow_does_not_silence_the_link(own_redis, caplog):
    """The fault is told, and the next word arrives."""
    heard = []

    def adopt(state, _seconds):
        heard.append(state)
        if len(heard) == 1:
            raise LookupError("a fault of ours")

    link = RedisBreakerState(own_redis.url)
    try:
        link.join("supplier", adopt)
        assert link.wait_until_connected(PATIENCE)
        with redis.Redis(port=own_redis.port) as client:

            def heard_again():
                client.publish("paintkit:circuits", b'["x","supplier","open",5]')
                return len(heard) > 1

            until(heard_again)
    finally:
        link.close()
    assert "a fault of ours" in caplog.text


def test_a_mutant_that_keeps_silent_is_caught(replicas, monkeypatch):
    """The test of opening together fails when word is not sent."""
    monkeypatch.setattr(RedisBreakerState, "announce", lambda *_: None)
    first, second = replicas(), replicas()

    fail(first)

    with pytest.raises(AssertionError):
        until(lambda: second.state is CircuitState.OPEN, TOGETHER)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_follows_too(replicas):
    """Threads and connections do not survive a fork; the child gets its own."""
    breaker = replicas(recovery_timeout=60.0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            until(lambda: breaker.state is CircuitState.OPEN)
            os.write(writing, b"open")
        finally:
            os._exit(0)
    os.close(writing)
    time.sleep(0.5)  # time for the child to listen; it would catch up from the key anyway

    fail(breaker)

    with os.fdopen(reading, "rb") as answer:
        assert b"open" == answer.read()
    os.waitpid(child, 0)


def test_a_shared_breaker_needs_a_name_of_its_own(own_redis):
    """It is how the others find it."""
    link = RedisBreakerState(own_redis.url)

    with pytest.raises(ValueError, match="name"):
        circuit_breaker(failure_threshold=1, shared=link)
    circuit_breaker("supplier", failure_threshold=1, shared=link)
    with pytest.raises(ValueError, match="supplier"):
        circuit_breaker("supplier", failure_threshold=1, shared=link)
    link.close()
