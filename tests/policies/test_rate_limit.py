"""Rate limit: never more starts than it says in any span, no token lost, no wait in vain, and bounded by key."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import RateLimitedError, RejectedError, deadline, observe, rate_limit
from paintkit import clock as source
from paintkit.testing import FakeClock, scripted
from tests.colours import Colour
from tests.growth import Growth
from tests.suspensions import at_every_await


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


def admitted(policy: Any, *args: Any) -> bool:
    """Whether a call may start now."""
    try:
        policy.call(lambda *_: None, *args)
    except RateLimitedError:
        return False
    return True


class TestRate:
    def test_passes_calls(self, colour):
        """With their arguments and results."""
        assert "done" == colour.call(rate_limit(1)(call := colour.script("done")), 1, two=2)
        assert [((1,), {"two": 2})] == call.calls

    def test_refuses_at_once_by_default(self, colour, clock):
        """Without calling the function, and without a sleep; the error tells for how long."""
        policy = rate_limit(2, per=1.0, name="search")
        for _ in range(2):
            colour.protect(policy, colour.script("done"))
        call = colour.script()

        with pytest.raises(RateLimitedError) as caught:
            colour.protect(policy, call)

        assert 0 == call.count
        assert [] == clock.sleeps
        assert "search" == caught.value.policy
        assert pytest.approx(0.5) == caught.value.retry_after
        assert isinstance(caught.value, RejectedError)
        assert 1 == policy.metrics().rejected

    @given(
        st.floats(0.1, 1000),
        st.sampled_from([0.01, 1.0, 60.0, timedelta(hours=1)]),
        st.lists(st.floats(0, 3), max_size=6),
    )
    def test_waiting_for_retry_after_is_enough(self, rate, per, naps):
        """Whoever sleeps as long as an error says is admitted, whatever floats round to."""
        policy = rate_limit(rate, per=per, burst=1)
        for nap in naps:
            FakeClock._active.advance(nap)
            admitted(policy)
        try:
            policy.call(scripted("done"))
        except RateLimitedError as error:
            source.sleep(error.retry_after)
            policy.call(scripted("done"))

    @pytest.mark.parametrize(("rate", "expected"), [(5, 5), (0.5, 1), (2.5, 2)])
    def test_the_burst_is_the_rate_by_default(self, rate, expected):
        """But at least one."""
        policy = rate_limit(rate)

        assert expected == sum(admitted(policy) for _ in range(20))

    @given(st.integers(1, 5), st.integers(1, 10), st.lists(st.floats(0, 2), min_size=1, max_size=40))
    def test_no_span_holds_more_than_burst_and_rate(self, burst, rate, naps):
        """However calls come; and what fits the model is let in."""
        clock, policy = FakeClock._active, rate_limit(rate, burst=burst)
        level, last = float(burst), clock.now()
        for nap in naps:
            clock.advance(nap)
            now = clock.now()
            level, last = min(burst, level + (now - last) * rate), now
            found = admitted(policy)
            assert found == (level >= 1) or abs(level - 1) < 1e-5 * rate
            level -= found


class TestWaiting:
    def test_waits_its_turn(self, colour, clock):
        """Exactly."""
        policy = rate_limit(4, burst=1, max_wait=10)
        function = policy(colour.script(forever="done"))

        times = []
        for _ in range(4):
            colour.call(function)
            times.append(clock.now())

        assert pytest.approx([0, 0.25, 0.5, 0.75]) == times
        assert 3 == policy.metrics().waited

    def test_a_wait_that_is_too_long_is_not_begun(self, colour, clock):
        """T25: it is refused before any of it is waited, and costs no token."""
        policy = rate_limit(1, burst=1, max_wait=0.9)
        colour.protect(policy, colour.script("done"))

        for _ in range(5):
            with pytest.raises(RateLimitedError) as caught:
                colour.protect(policy, colour.script())
            assert pytest.approx(1.0) == caught.value.retry_after

        assert [] == clock.sleeps
        clock.advance(1.0)
        assert "done" == colour.protect(policy, colour.script("done"))

    @pytest.mark.parametrize("left", [0.5, 1.0])
    def test_a_wait_that_does_not_meet_the_deadline_is_not_begun(self, colour, clock, left):
        """A token that comes with the end of all time is of no use."""
        policy = rate_limit(1, burst=1, max_wait=10)
        colour.protect(policy, colour.script("done"))

        with deadline(left), pytest.raises(RateLimitedError):
            colour.protect(policy, colour.script())

        assert [] == clock.sleeps

    def test_tasks_wait_in_their_order(self, clock):
        """Each sleeps once, and wakes up at its own instant: nobody polls (T24)."""
        policy, served = rate_limit(2, burst=1, max_wait=60), []

        async def call(number: int) -> None:
            await policy.acall(Colour.ASYNCIO.script("done"))
            served.append((number, clock.now()))

        async def main() -> None:
            await asyncio.gather(*map(call, range(50)))

        clock.run(main())
        assert list(range(50)) == [number for number, _ in served]
        assert all(pytest.approx(0.5) == two - one for (_, one), (_, two) in pairwise(served))
        assert 49 == len(clock.sleeps)

    @pytest.mark.parametrize("order", [list, reversed], ids=["first", "last"])
    def test_cancelled_waiters_give_their_tokens_back(self, clock, order):
        """T25: twenty who gave up cost the next call nothing, in whatever order they left."""
        policy = rate_limit(10, burst=1, max_wait=60)

        async def main() -> None:
            await policy.acall(Colour.ASYNCIO.script("done"))
            tasks = [asyncio.create_task(policy.acall(Colour.ASYNCIO.script())) for _ in range(20)]
            await asyncio.sleep(0.05)
            for task in order(tasks):
                task.cancel()
            await asyncio.wait(tasks)
            await policy.acall(Colour.ASYNCIO.script("done"))
            assert pytest.approx(0.1) == clock.now()

        clock.run(main())

    def test_a_cancelled_waiter_leaves_no_double_start(self, clock):
        """T22: those behind it keep their instants, so the next comer must not get one of them, too."""
        policy, starts = rate_limit(1, burst=1, max_wait=60), []

        async def call() -> None:
            await policy.acall(Colour.ASYNCIO.script("done"))
            starts.append(clock.now())

        async def main() -> None:
            tasks = [asyncio.create_task(call()) for _ in range(4)]
            await asyncio.sleep(0.5)
            tasks[1].cancel()
            await asyncio.sleep(0)
            tasks.append(asyncio.create_task(call()))
            await asyncio.wait(tasks)

        clock.run(main())
        assert all(two - one >= 1 - 1e-5 for one, two in pairwise(starts))
        assert 4 == len(starts)

    def test_cancellation_at_every_await(self, clock):
        """T22: the token is back, and the function has not run."""

        def scenario(interrupted: Any) -> bool:
            policy = rate_limit(1, burst=1, max_wait=60)
            policy.call(scripted("done"))
            call = Colour.ASYNCIO.script("done")

            async def victim() -> None:
                await interrupted(policy.acall(call))

            async def main() -> bool:
                before, task = policy._buckets.only.tokens(clock.now()), asyncio.create_task(victim())
                await asyncio.wait([task])
                if task.cancelled():
                    assert 0 == call.count
                    assert pytest.approx(before) == policy._buckets.only.tokens(clock.now())
                return task.cancelled()

            return clock.run(main())

        assert 1 == at_every_await(scenario)


class TestSharing:
    def test_threads_do_not_admit_too_many(self):
        """T23: as many as there are tokens, from however many threads."""
        policy, barrier = rate_limit(50, burst=37), threading.Barrier(8)

        def work() -> int:
            barrier.wait(60)
            return sum(admitted(policy) for _ in range(20))

        with ThreadPoolExecutor(8) as pool:
            assert 37 == sum(one.result() for one in [pool.submit(work) for _ in range(8)])

    def test_both_colours_share_the_tokens(self, clock):
        """One limit for threads and tasks."""
        policy = rate_limit(2)
        policy.call(scripted("done"))
        Colour.ASYNCIO.protect(policy, Colour.ASYNCIO.script("done"))

        with pytest.raises(RateLimitedError):
            Colour.ASYNCIO.protect(policy, Colour.ASYNCIO.script())
        assert not admitted(policy)


class TestKeys:
    def test_every_key_has_its_own_limit(self, colour):
        """Decorated, and through `.call`, which passes the user's own arguments to the key, and no more."""
        policy = rate_limit(1, key=lambda host, *, port=80: (host, port))

        def fetch(host: str, *, port: int = 80) -> str:
            return host

        function = colour.function(fetch)
        if colour is Colour.ASYNCIO:

            async def function(host: str, *, port: int = 80) -> str:
                return host

        assert "a" == colour.call(policy(function), "a")
        assert "b" == colour.protect(policy, function, "b")
        assert "a" == colour.protect(policy, function, "a", port=81)
        for call in (
            policy(function),
            lambda *args, **kw: (policy.call if colour is Colour.BLOCKING else policy.acall)(
                function, *args, **kw
            ),
        ):
            with pytest.raises(RateLimitedError):
                colour.call(call, "a")
            with pytest.raises(RateLimitedError):
                colour.call(call, "a", port=81)
        assert 3 == policy.metrics().keys

    def test_idle_keys_make_room(self, clock):
        """And nothing is lost by that: their bucket was full."""
        policy = rate_limit(1, key=lambda key: key, max_keys=10)
        for key in range(1000):
            assert admitted(policy, key)
            assert not admitted(policy, key)
            assert policy.metrics().keys <= 10
            clock.advance(0.5)

    def test_keys_in_use_are_not_forgotten(self, clock):
        """Up to `max_keys` of them, however many idle ones come and go."""
        policy = rate_limit(1, per=1000.0, burst=2, key=lambda key: key, max_keys=10)
        in_use = list(range(9))
        for key in in_use:
            assert [True, True, False] == [admitted(policy, key) for _ in range(3)]
        for newcomer in range(100, 200):
            admitted(policy, newcomer)
            clock.advance(0.25)

        assert not any(admitted(policy, key) for key in in_use)
        assert 10 == policy.metrics().keys

    def test_the_key_that_is_missed_least_goes_first(self, clock):
        """When more are in use than there is room for, the bucket that is nearest to full is forgotten."""
        policy = rate_limit(1, per=10.0, burst=3, key=lambda key: key, max_keys=2)
        for key, times in (("much", 3), ("little", 1), ("newcomer", 1)):
            for _ in range(times):
                assert admitted(policy, key)

        assert not admitted(policy, "much")
        assert [True, True, True, False] == [admitted(policy, "little") for _ in range(4)]

    def test_memory_is_bounded(self, clock):
        """T30: a hundred thousand keys come by, and at most 64 KiB more are in use than after the first ones."""
        policy = rate_limit(1000, key=lambda key: key, max_keys=1000)
        function = policy(lambda key: None)

        def pass_by(start: int, stop: int) -> None:
            for key in range(start, stop):
                function(key)
                if key % 10 == 0:
                    clock.advance(0.001)

        with Growth() as growth:
            pass_by(0, 10_000)
            growth.mark()
            pass_by(10_000, 60_000)  # fifty times as many as there is room for, and once more
            growth.mark()
            pass_by(60_000, 110_000)

        assert growth.bytes < 64 * 1024, growth.others
        assert 1000 == policy.metrics().keys

    def test_keys_need_not_be_comparable(self):
        """Only hashable."""
        policy = rate_limit(1, key=lambda key: key, max_keys=2)
        for key in (None, "text", 3, (1,), frozenset()):
            assert admitted(policy, key)


class TestWeight:
    def test_a_call_may_count_for_several(self, colour):
        """Or for less than one."""
        policy = rate_limit(10, weight=lambda items: len(items) or 0.5)

        colour.protect(policy, colour.script("done"), "1234")
        colour.protect(policy, colour.script("done"), "")
        with pytest.raises(RateLimitedError) as caught:
            colour.protect(policy, colour.script(), "123456")
        assert pytest.approx(0.05) == caught.value.retry_after
        colour.protect(policy, colour.script("done"), "12345")

    @pytest.mark.parametrize("weight", [0, -1, 11, float("nan"), True, "1", None])
    def test_a_weight_that_makes_no_sense_is_an_error(self, colour, weight):
        """It is not silently taken for one, nor waited for for ever."""
        with pytest.raises((TypeError, ValueError), match="weight"):
            colour.protect(rate_limit(10, weight=lambda: weight), colour.script())


class TestGenerators:
    def test_the_token_is_taken_at_the_first_item(self, colour):
        """Not when the generator is made, and once for all items."""
        policy = rate_limit(1, key=lambda name: name)

        @policy
        def generate(name: str) -> Iterator[int]:
            yield 1
            yield 2

        @policy
        async def agenerate(name: str) -> AsyncIterator[int]:
            yield 1
            yield 2

        async def read() -> None:
            agenerate("a")
            assert [1, 2] == [item async for item in agenerate("a")]
            with pytest.raises(RateLimitedError):
                await anext(agenerate("a"))

        if colour is Colour.ASYNCIO:
            colour.call(read)
        else:
            generate("a")
            assert [1, 2] == list(generate("a"))
            with pytest.raises(RateLimitedError):
                next(generate("a"))


class TestShadowAndObservations:
    def test_shadow_lets_every_call_pass(self, colour):
        """And tells what it would have refused."""
        policy, seen = rate_limit(1, shadow=True), []
        with observe(seen.append):
            for _ in range(3):
                assert "done" == colour.protect(policy, colour.script("done"))

        assert ["rate_limit.would_reject"] * 2 == [one.kind for one in seen]
        assert 2 == policy.metrics().rejected

    def test_a_success_is_silent_and_a_refusal_is_told(self, colour):
        """The happy path says nothing."""
        policy, seen = rate_limit(1, name="search"), []
        with observe(seen.append):
            colour.protect(policy, colour.script("done"))
            assert [] == seen
            with pytest.raises(RateLimitedError):
                colour.protect(policy, colour.script())

        assert [("rate_limit.rejected", "search")] == [(one.kind, one.source) for one in seen]
        assert pytest.approx(1.0) == seen[0].details["retry_after"]

    def test_an_observer_that_raises_breaks_nothing(self, colour, caplog):
        """The refusal is still a refusal."""
        policy = rate_limit(1)
        with observe(scripted(forever=ZeroDivisionError)):
            colour.protect(policy, colour.script("done"))
            with pytest.raises(RateLimitedError):
                colour.protect(policy, colour.script())
        assert "ZeroDivisionError" in caplog.text


NAN, INFINITY = float("nan"), float("inf")


async def not_plain() -> None: ...


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"rate": 0}, ValueError, "rate"),
        ({"rate": -1}, ValueError, "rate"),
        ({"rate": NAN}, ValueError, "rate"),
        ({"rate": INFINITY}, ValueError, "rate"),
        ({"rate": True}, TypeError, "rate"),
        ({"rate": "5"}, TypeError, "rate"),
        ({"rate": None}, TypeError, "rate"),
        ({"per": 0}, ValueError, "per"),
        ({"per": NAN}, ValueError, "per"),
        ({"per": None}, TypeError, "per"),
        ({"per": timedelta(seconds=-1)}, ValueError, "per"),
        ({"burst": 0.5}, ValueError, "burst"),
        ({"burst": 0}, ValueError, "burst"),
        ({"burst": True}, TypeError, "burst"),
        ({"max_wait": -1}, ValueError, "max_wait"),
        ({"max_wait": None}, TypeError, "max_wait"),
        ({"key": "host"}, TypeError, "key"),
        ({"key": not_plain}, TypeError, "key"),
        ({"max_keys": 0}, ValueError, "max_keys"),
        ({"max_keys": 1.0}, TypeError, "max_keys"),
        ({"weight": 3}, TypeError, "weight"),
        ({"weight": not_plain}, TypeError, "weight"),
        ({"name": " "}, ValueError, "name"),
        ({"shadow": None}, TypeError, "shadow"),
    ],
)
def test_arguments_are_checked(options, error, named):
    """At construction, by name."""
    with pytest.raises(error, match=named):
        rate_limit(**{"rate": 1, **options})
