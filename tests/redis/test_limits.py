"""Rate limits that replicas share, and keep by themselves when Redis is away."""

import asyncio
import threading
import time

import pytest

from paintkit import RateLimitedError, deadline, rate_limit
from paintkit.policies._rate_limit import Tokens
from paintkit.redis import RedisLimits
from paintkit.redis import limits as limits_module
from paintkit.testing import FakeClock
from tests.redis.conftest import PATIENCE, until

UNNOTICED = 0.05  # seconds that Redis may cost a caller


@pytest.fixture
def hasty_limits(own_redis):
    """Make what stands for one process each, with the little time for an answer that callers have."""
    made = []

    def limit(rate=5, **options):
        shared = RedisLimits(own_redis.url)
        made.append(shared)
        options = {"per": 60.0, "name": "supplier"} | options
        return rate_limit(rate, shared=shared, **options)

    yield limit
    for shared in made:
        shared.close()


@pytest.fixture
def patient(monkeypatch):
    """Wait for answers, however busy the machine is: for tests in which Redis has one."""
    monkeypatch.setattr(limits_module, "_ANSWER", PATIENCE)


@pytest.fixture
def limits(patient, hasty_limits):
    """Make what stands for one process each, and is answered."""
    return hasty_limits


@pytest.fixture
def buckets(patient, own_redis):
    """What is asked for tokens, without a policy around it."""
    shared = RedisLimits(own_redis.url)
    yield shared
    shared.close()


def admitted(colour, limit, calls):
    """How many of so many calls pass."""
    protected = limit(colour.function(lambda: "done"))
    passed = 0
    for _ in range(calls):
        try:
            colour.call(protected)
        except RateLimitedError:
            continue
        passed += 1
    return passed


def test_all_replicas_together_have_one_burst(colour, limits):
    """Five tokens for all of them, not for each."""
    first, second = limits(), limits()

    assert 5 == admitted(colour, first, 4) + admitted(colour, second, 4)


def test_names_and_keys_have_buckets_of_their_own(colour, limits):
    """And a number is not its text."""
    keyed = limits(1, key=lambda host: host)
    protected = keyed(colour.function(lambda host: host))

    for host in ("a", "b", 1, "1", b"1"):
        assert host == colour.call(protected, host)
    with pytest.raises(RateLimitedError):
        colour.call(protected, "a")
    assert "done" == colour.call(limits(1, name="other")(colour.function(lambda: "done")))


def test_a_refusal_says_when_to_come_back(colour, limits):
    """The wait for the next token, on the server's clock."""
    limit = limits(1, per=3_600.0)
    assert 1 == admitted(colour, limit, 1)

    with pytest.raises(RateLimitedError) as caught:
        colour.call(limit(colour.function(lambda: "done")))

    assert 3_500.0 < caught.value.retry_after <= 3_600.0


def test_a_wait_that_cannot_fit_is_refused_at_once(colour, limits):
    """By the deadline around it as by `max_wait`."""
    limit = limits(1, per=3_600.0, max_wait=7_200.0)
    assert 1 == admitted(colour, limit, 1)

    with deadline(PATIENCE), pytest.raises(RateLimitedError):
        colour.call(limit(colour.function(lambda: "done")))


def test_waiting_takes_its_turn(limits):
    """A wait that fits is waited, on our clock, for as long as the server said."""
    limit = limits(1, per=600.0, burst=1, max_wait=1_800.0)

    with FakeClock() as clock:
        for _ in range(3):
            limit.call(lambda: None)

    assert [600.0, 1_200.0] == pytest.approx(clock.sleeps, abs=100.0)
    assert 2 == limit.metrics().waited


def test_a_cancelled_wait_gives_its_token_back(limits):
    """The next one need not wait for a call that never came."""
    limit = limits(1, per=600.0, burst=1, max_wait=1_200.0)

    @limit
    async def call():
        return "done"

    async def scenario():
        await call()
        waiting = asyncio.create_task(call())
        while not limit.metrics().waited:
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())

    assert next_wait(limit) <= 600.0


def test_a_call_that_is_cancelled_while_it_asks_leaves_no_token_behind(limits):
    """Its question is on its way in a thread, which finds out that nobody waits for the answer."""
    limit = limits(1, per=600.0)
    shared, asked, answered = limit._shared, threading.Event(), threading.Event()
    take = shared.take

    def slow(*what):
        grant = take(*what)
        asked.set()
        answered.wait(PATIENCE)
        return grant

    async def scenario():
        shared.take = slow
        asking = asyncio.create_task(limit.acall(asyncio.sleep, 0))
        await asyncio.to_thread(asked.wait, PATIENCE)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        answered.set()

    asyncio.run(scenario())  # which waits for its threads
    del shared.take
    assert "done" == limit.call(lambda: "done")


def next_wait(limit):
    """How long the next call would have to wait, which does not."""
    with deadline(PATIENCE), pytest.raises(RateLimitedError) as caught:
        limit.call(lambda: None)
    return caught.value.retry_after


def two_start_at_one_instant(shared):
    """Whether a newcomer gets the instant of one who waits, after somebody before both has left the queue."""
    tokens = Tokens(interval=1_000.0, tolerance=1_000.0, weight=1.0)

    def take():
        return shared.take("supplier", "", tokens, 36_000.0)

    take()
    leaves, stays = take(), take()
    shared.give_back("supplier", "", tokens, leaves.receipt)
    return take().wait < stays.wait + 900.0


def test_a_token_from_the_middle_of_the_queue_is_not_given_twice(buckets):
    """Who waits behind keeps an instant of its own."""
    assert not two_start_at_one_instant(buckets)


def test_a_planted_fault_is_found(buckets, monkeypatch):
    """A script that gives back from anywhere lets two calls start at once."""
    monkeypatch.setattr(limits_module, "_GIVE_BACK", limits_module._GIVE_BACK.replace("~= ARGV[3]", "== nil"))

    assert two_start_at_one_instant(buckets)


def test_the_last_in_the_queue_gives_its_token_back(buckets):
    """Then the next gets the same instant."""
    tokens = Tokens(interval=1_000.0, tolerance=1_000.0, weight=1.0)
    buckets.take("supplier", "", tokens, 36_000.0)
    leaves = buckets.take("supplier", "", tokens, 36_000.0)

    buckets.give_back("supplier", "", tokens, leaves.receipt)

    assert leaves.wait == pytest.approx(buckets.take("supplier", "", tokens, 36_000.0).wait, abs=100.0)


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_without_redis_each_limits_by_itself(own_redis, colour, hasty_limits, fault):
    """No error, and the limit still holds."""
    limit = hasty_limits(per=3_600.0)
    getattr(own_redis, fault)()

    assert 5 == admitted(colour, limit, 8)


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_without_redis_nobody_waits_long(own_redis, hasty_limits, fault):
    """One in a while asks whether it is back, briefly. A hiccup of the machine passes, a wait for Redis would not."""
    limit = hasty_limits(1_000_000)
    getattr(own_redis, fault)()

    assert any(slowest_of(limit, 300) < UNNOTICED for _ in range(20))


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_when_redis_is_back_it_is_asked_again(own_redis, hasty_limits, fault):
    """After the pause in which it was left alone."""
    limit = hasty_limits(1_000_000)
    tokens = Tokens(60.0, 60.0, 0.001)

    def asked():
        clock.advance(1.1)
        limit.call(lambda: None)
        return limit._shared._absence.may_ask()

    with FakeClock() as clock:
        getattr(own_redis, fault)()
        limit.call(lambda: None)
        own_redis.start() if fault == "kill" else own_redis.wake()
        assert limit._shared.take("supplier", "", tokens, 0.0) is None

        until(asked)  # a server that has just come back may be too slow for a call, but not for all

        until(lambda: limit._shared.take("another", "", tokens, 0.0) or clock.advance(1.1))


def test_a_key_without_a_common_text_is_refused(colour, limits):
    """It would be another one in every process."""
    protected = limits(1, key=lambda thing: thing)(colour.function(lambda thing: thing))

    with pytest.raises(TypeError, match="str, int or bytes"):
        colour.call(protected, (1, 2))


def test_a_shared_limit_needs_a_name(own_redis):
    """It is how the others find it."""
    shared = RedisLimits(own_redis.url)

    with pytest.raises(ValueError, match="name"):
        rate_limit(5, shared=shared)
    shared.close()


def slowest_of(limit, calls):
    """The longest of so many calls, in seconds."""
    slowest = 0.0
    for _ in range(calls):
        started = time.perf_counter()
        limit.call(lambda: None)
        slowest = max(slowest, time.perf_counter() - started)
    return slowest
