"""Rate limits that replicas share, and keep by themselves when Redis is away."""

import asyncio
import time

import pytest

from paintkit import RateLimitedError, deadline, rate_limit
from paintkit.policies._rate_limit import Tokens
from paintkit.redis import RedisLimits
from paintkit.redis import limits as limits_module

UNNOTICED = 0.05  # seconds that Redis may cost a caller


@pytest.fixture
def limits(own_redis):
    """Make what stands for one process each."""
    made = []

    def limit(rate=5, **options):
        shared = RedisLimits(own_redis.url)
        made.append(shared)
        options = {"per": 60.0, "name": "supplier"} | options
        return rate_limit(rate, shared=shared, **options)

    yield limit
    for shared in made:
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
    limit = limits(1, per=60.0)
    assert 1 == admitted(colour, limit, 1)

    with pytest.raises(RateLimitedError) as caught:
        colour.call(limit(colour.function(lambda: "done")))

    assert 59.0 < caught.value.retry_after <= 60.0


def test_a_wait_that_cannot_fit_is_refused_at_once(colour, limits):
    """By the deadline around it as by `max_wait`."""
    limit = limits(1, per=60.0, max_wait=120.0)
    assert 1 == admitted(colour, limit, 1)

    with deadline(1.0), pytest.raises(RateLimitedError):
        colour.call(limit(colour.function(lambda: "done")))


def test_waiting_takes_its_turn(limits):
    """A short wait is waited."""
    limit = limits(20, per=1.0, burst=1, max_wait=1.0)

    started = time.monotonic()
    for _ in range(3):
        limit.call(lambda: None)

    assert 0.08 < time.monotonic() - started
    assert 2 == limit.metrics().waited


def test_a_cancelled_wait_gives_its_token_back(limits):
    """The next one need not wait for a call that never came."""
    limit = limits(1, per=30.0, burst=1, max_wait=60.0)

    @limit
    async def call():
        return "done"

    async def scenario():
        await call()
        waiting = asyncio.create_task(call())
        await asyncio.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())

    with deadline(0.5), pytest.raises(RateLimitedError) as caught:
        limit.call(lambda: None)
    assert caught.value.retry_after < 31.0


def two_start_at_one_instant(shared):
    """Whether a newcomer gets the instant of one who waits, after somebody before both has left the queue."""
    tokens = Tokens(interval=10.0, tolerance=10.0, weight=1.0)

    def take():
        return shared.take("supplier", "", tokens, 3_600.0)

    take()
    leaves, stays = take(), take()
    shared.give_back("supplier", "", tokens, leaves.receipt)
    return take().wait < stays.wait + 9.0


def test_a_token_from_the_middle_of_the_queue_is_not_given_twice(own_redis):
    """Who waits behind keeps an instant of its own."""
    shared = RedisLimits(own_redis.url)

    assert not two_start_at_one_instant(shared)
    shared.close()


def test_a_planted_fault_is_found(own_redis, monkeypatch):
    """A script that gives back from anywhere lets two calls start at once."""
    monkeypatch.setattr(limits_module, "_GIVE_BACK", limits_module._GIVE_BACK.replace("~= ARGV[3]", "== nil"))
    shared = RedisLimits(own_redis.url)

    assert two_start_at_one_instant(shared)
    shared.close()


def test_the_last_in_the_queue_gives_its_token_back(own_redis):
    """Then the next gets the same instant."""
    shared = RedisLimits(own_redis.url)
    tokens = Tokens(interval=10.0, tolerance=10.0, weight=1.0)
    shared.take("supplier", "", tokens, 3_600.0)
    leaves = shared.take("supplier", "", tokens, 3_600.0)

    shared.give_back("supplier", "", tokens, leaves.receipt)

    assert leaves.wait == pytest.approx(shared.take("supplier", "", tokens, 3_600.0).wait, abs=1.0)
    shared.close()


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_without_redis_each_limits_by_itself(own_redis, colour, limits, fault):
    """No error, and the limit still holds."""
    limit = limits()
    getattr(own_redis, fault)()

    assert 5 == admitted(colour, limit, 8)


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_without_redis_nobody_waits_long(own_redis, limits, fault):
    """One in a while asks whether it is back, briefly. A hiccup of the machine passes, a wait for Redis would not."""
    limit = limits(1_000_000)
    getattr(own_redis, fault)()

    assert min(slowest_of(limit, 300) for _ in range(3)) < UNNOTICED


def test_when_redis_is_back_it_is_asked_again(own_redis, limits):
    """After the pause in which it was left alone."""
    limit = limits(1_000_000)
    own_redis.hang()
    limit.call(lambda: None)
    own_redis.wake()
    time.sleep(1.1)

    limit.call(lambda: None)

    other = limits(1_000_000)
    assert other._shared.take("supplier", "", Tokens(60.0, 60.0, 0.001), 0.0) is not None
    assert limit._shared._absence.may_ask()


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
