"""Retry's further options: what is never retried, whom it obeys, what it may spend, and what it tells afterwards."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import (
    CircuitOpenError,
    RetryBudget,
    backoff,
    circuit_breaker,
    deadline,
    observe,
    rate_limit,
    retry,
    retry_after_from,
)
from paintkit.machines.retrying import GiveUp, RetryPlan, Wait
from paintkit.testing import FakeClock, scripted
from tests.colours import Colour
from tests.suspensions import at_every_await

AT_ONCE = backoff.constant(0)
EVERY_SECOND = backoff.constant(1.0)


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


class BusyError(Exception):
    """The server says when to come back."""

    def __init__(self, retry_after: object) -> None:
        super().__init__()
        self.retry_after = retry_after


class TestNever:
    @pytest.mark.parametrize(
        "never",
        [ConnectionError, (KeyError, ConnectionError), lambda error: isinstance(error, ConnectionError)],
        ids=["type", "types", "predicate"],
    )
    def test_wins_over_on(self, colour, never):
        """However it is named."""
        policy = retry(on=OSError, never=never, attempts=3, backoff=AT_ONCE)

        with pytest.raises(ConnectionError):
            colour.protect(policy, call := colour.script(TimeoutError, ConnectionError))
        assert 2 == call.count

    def test_says_nothing_of_results(self, colour):
        """It is about exceptions."""
        policy = retry(on=OSError, never=OSError, attempts=2, backoff=AT_ONCE, on_result=lambda r: r == "bad")
        assert "good" == colour.protect(policy, colour.script("bad", "good"))


class TestHints:
    @pytest.mark.parametrize("hint", [20, 20.0, timedelta(seconds=20)], ids=repr)
    def test_a_hint_is_obeyed(self, colour, clock, hint):
        """Never earlier, and up to a tenth later, so that not all come back at once."""
        for _ in range(20):
            colour.protect(
                retry(on=BusyError, attempts=2, backoff=AT_ONCE), colour.script(BusyError(hint), "done")
            )

        assert all(20 <= one <= 22 for one in clock.sleeps)
        assert len(set(clock.sleeps)) > 10

    @pytest.mark.parametrize(
        "hint",
        [None, 0, -5, float("nan"), True, "20", timedelta(0), []],
        ids=repr,
    )
    def test_what_is_no_hint_is_none(self, colour, clock, hint):
        """The schedule alone decides."""
        colour.protect(
            retry(on=BusyError, attempts=2, backoff=EVERY_SECOND), colour.script(BusyError(hint), "done")
        )
        assert [1.0] == clock.sleeps

    def test_the_longer_of_hint_and_schedule_counts(self, colour, clock):
        """A short hint is no reason to hurry."""
        policy = retry(on=BusyError, attempts=2, backoff=backoff.constant(30))
        colour.protect(policy, colour.script(BusyError(5), "done"))
        assert [30.0] == clock.sleeps

    @pytest.mark.parametrize(("hint", "followed"), [(60, True), (60.001, False), (math.inf, False)])
    def test_a_hint_beyond_the_cap_ends_the_call(self, colour, clock, hint, followed):
        """It is not shortened; a hint of just the cap is followed, however it is spread."""
        for _ in range(10):
            call = colour.script(BusyError(hint), "done")
            policy = retry(on=BusyError, attempts=2, backoff=AT_ONCE)
            if followed:
                assert "done" == colour.protect(policy, call)
            else:
                with pytest.raises(BusyError):
                    colour.protect(policy, call)
        assert (10 if followed else 0) == len(clock.sleeps)

    def test_the_cap_is_an_option(self, colour, clock):
        """In seconds or as a `timedelta`; of zero, no hint is followed."""
        for cap, count in ((timedelta(minutes=5), 2), (0, 1)):
            policy = retry(on=BusyError, attempts=2, backoff=AT_ONCE, retry_after_cap=cap)
            call = colour.script(BusyError(200), "done")
            if count == 1:
                with pytest.raises(BusyError):
                    colour.protect(policy, call)
            else:
                colour.protect(policy, call)
            assert count == call.count

    def test_a_hint_that_does_not_meet_the_deadline_ends_the_call(self, colour, clock):
        """Before any of it is slept."""
        with deadline(15), pytest.raises(BusyError):
            colour.protect(retry(on=BusyError), colour.script(BusyError(20)))
        assert [] == clock.sleeps

    def test_results_give_hints_too(self, colour, clock):
        """From wherever a function finds them."""
        policy = retry(
            on=OSError,
            attempts=2,
            backoff=AT_ONCE,
            on_result=lambda reply: reply["status"] == 503,
            retry_after=lambda source: source.get("wait"),
        )
        assert {"status": 200} == colour.protect(
            policy, colour.script({"status": 503, "wait": 7}, {"status": 200})
        )
        assert 7 <= clock.now() <= 7.7

    def test_responses_give_hints_too(self, colour, clock):
        """With the helper for HTTP."""
        policy = retry(on=OSError, attempts=2, backoff=AT_ONCE, on_result=bool, retry_after=retry_after_from)
        colour.protect(policy, colour.script(SimpleNamespace(headers={"Retry-After": "12"}), None))
        assert 12 <= clock.now() <= 13.2

    def test_hints_can_be_switched_off(self, colour, clock):
        """Then only the schedule counts."""
        policy = retry(on=BusyError, attempts=2, backoff=EVERY_SECOND, retry_after=None)
        colour.protect(policy, colour.script(BusyError(20), "done"))
        assert [1.0] == clock.sleeps

    def test_refusals_of_our_own_give_hints(self, colour, clock):
        """A rate limit tells when the next token comes."""
        policy = rate_limit(0.1)
        colour.protect(policy, colour.script("done"))
        function = retry(on=Exception, attempts=2, backoff=AT_ONCE)(policy(colour.script("done")))
        assert "done" == colour.call(function)
        assert 10 <= clock.now() <= 11

    @given(st.floats(0, 100), st.floats(0, 100), st.floats(1, 1.1), st.floats(0, 100))
    def test_the_plan(self, delay, hint, spread, left):
        """Never shorter than delay and hint, never past the deadline, refused only for its reason."""
        decision = RetryPlan(3, longest_hint=60).after_failure(
            10.0, delay, hint=hint, spread=spread, due=10.0 + left
        )
        wait = max(delay, hint * spread)
        if hint > 60:
            assert GiveUp("retry_after") == decision
        elif 10.0 + wait >= 10.0 + left:
            assert GiveUp("deadline") == decision
        else:
            assert Wait(wait) == decision


class TestBackoffByException:
    def test_each_failure_has_its_schedule(self, colour, clock):
        """And each schedule goes on where this call left it, also if it is made anew for every failure."""

        def choose(error: Exception | None) -> backoff.Schedule:
            if isinstance(error, TimeoutError):
                return backoff.exponential(1.0, cap=60.0, jitter="none")
            return backoff.exponential(0.125, cap=60.0, jitter="none")

        policy = retry(on=OSError, attempts=6, backoff=choose)
        for _ in range(2):
            clock.sleeps.clear()
            colour.protect(
                policy,
                colour.script(
                    TimeoutError, ConnectionError, TimeoutError, ConnectionError, TimeoutError, "done"
                ),
            )
            assert [1.0, 0.125, 2.0, 0.25, 4.0] == clock.sleeps

    def test_results_have_one_too(self, colour, clock):
        """It is asked with `None`."""
        policy = retry(
            on=OSError,
            attempts=2,
            backoff=lambda error: EVERY_SECOND if error is None else AT_ONCE,
            on_result=lambda r: r == "bad",
        )
        colour.protect(policy, colour.script("bad", "good"))
        assert [1.0] == clock.sleeps


class TestBudget:
    def test_is_shared(self, colour):
        """By everything that calls the same dependency."""
        budget = RetryBudget(ratio=0.5, reserve=0)
        policies = [retry(on=OSError, attempts=2, backoff=AT_ONCE, budget=budget) for _ in range(2)]
        for number in range(8):
            with pytest.raises(OSError):
                colour.protect(policies[number % 2], colour.script(forever=OSError))
        assert 4 == sum(policy.retries for policy in policies)
        assert 4 == budget.refused

    def test_blocks_pay_in_and_out(self, colour):
        """A block's first attempt is one like any other."""
        budget = RetryBudget(ratio=1.0, reserve=0)
        policy = retry(on=OSError, attempts=2, backoff=AT_ONCE, budget=budget)

        def block() -> None:
            for attempt in policy.attempts():
                with attempt:
                    raise OSError

        async def ablock() -> None:
            async for attempt in policy.attempts():
                with attempt:
                    raise OSError

        with pytest.raises(OSError):
            colour.call(block if colour is Colour.BLOCKING else ablock)
        assert 1 == policy.retries
        assert 0 == budget.balance()

    def test_a_refusal_by_the_breaker_is_refunded(self, colour):
        """T29: the attempt was not made."""
        budget = RetryBudget(ratio=1.0, reserve=0)
        breaker = circuit_breaker(failure_threshold=1)
        with pytest.raises(OSError):
            colour.call(retry(on=OSError, backoff=AT_ONCE, budget=budget)(breaker(colour.script(OSError))))
        assert 1.0 == budget.balance()

    def test_a_sleep_past_the_deadline_is_refunded(self, clock):
        """T29: the loop was late, and the attempt is not made."""
        budget = RetryBudget(ratio=1.0, reserve=0)
        policy = retry(on=OSError, attempts=3, backoff=EVERY_SECOND, budget=budget)
        call = Colour.ASYNCIO.script(forever=OSError)

        async def main() -> None:
            asyncio.get_running_loop().call_later(0.5, clock.advance, 5)
            with deadline(2.0), pytest.raises(OSError):
                await policy.acall(call)

        clock.run(main())
        assert 1 == call.count
        assert 1.0 == budget.balance()

    def test_cancellation_at_every_await(self, clock):
        """T22, T29: what was paid for and not made is back."""

        def scenario(interrupted: Any) -> bool:
            budget = RetryBudget(ratio=1.0, reserve=0.2)
            policy = retry(on=OSError, attempts=3, backoff=EVERY_SECOND, budget=budget)
            call = Colour.ASYNCIO.script(OSError, OSError, "done")

            async def body() -> Any:
                await asyncio.sleep(0.5)
                return await call()

            async def main() -> bool:
                try:
                    await interrupted(policy.acall(body))
                except asyncio.CancelledError:
                    asyncio.current_task().uncancel()
                    cancelled = True
                else:
                    cancelled = False
                return cancelled

            made = clock.sleeps.copy()
            cancelled = clock.run(main())
            starts = sum(one == 0.5 for one in clock.sleeps[len(made) :])
            assert pytest.approx(3.0 - (starts - 1)) == budget.balance()
            return cancelled

        assert 5 == at_every_await(scenario)

    def test_the_first_attempt_is_never_refused(self, colour):
        """A budget bounds retries."""
        policy = retry(on=OSError, backoff=AT_ONCE, budget=RetryBudget(ratio=0.01, reserve=0))
        assert "done" == colour.protect(policy, colour.script("done"))


class TestIdempotent:
    def test_what_does_harm_twice_is_made_once(self, colour):
        """The question is asked about the call's own arguments, decorated or not, and only after a failure."""
        asked = []

        def is_safe(method: str, *, url: str = "/") -> bool:
            asked.append((method, url))
            return method == "GET"

        policy = retry(on=OSError, attempts=2, backoff=AT_ONCE, idempotent=is_safe)
        for method, count in (("GET", 2), ("POST", 1)):
            for protect in (
                policy,
                lambda call: (
                    lambda *a, **k: (
                        policy.acall(call, *a, **k)
                        if colour is Colour.ASYNCIO
                        else policy.call(call, *a, **k)
                    )
                ),
            ):
                call = colour.script(forever=OSError)
                with pytest.raises(OSError):
                    colour.call(protect(call), method, url="/x")
                assert count == call.count
        assert {("GET", "/x"), ("POST", "/x")} == set(asked)
        asked.clear()
        colour.protect(policy, colour.script("done"), "GET")
        assert [] == asked


class TestGroup:
    def test_exhausted_attempts_raise_all_failures(self, colour):
        """In order, the same objects; each can be handled by its type."""
        errors = [OSError(1), ConnectionError(2), TimeoutError(3)]
        policy = retry(on=OSError, attempts=3, backoff=AT_ONCE, as_group=True, name="search")

        with pytest.raises(ExceptionGroup, match="search: 3 attempts failed") as caught:
            colour.protect(policy, colour.script(*errors))

        assert errors == list(caught.value.exceptions)

    def test_one_failure_is_no_group(self, colour):
        """There was but one attempt: its own exception says it all."""
        policy = retry(on=OSError, attempts=3, backoff=AT_ONCE, as_group=True)
        with pytest.raises(ValueError):
            colour.protect(policy, colour.script(ValueError))

    def test_a_late_success_is_a_success(self, colour):
        """Failures before it are forgotten."""
        policy = retry(on=OSError, attempts=3, backoff=AT_ONCE, as_group=True)
        assert "done" == colour.protect(policy, colour.script(OSError, OSError, "done"))


class TestWaitForCircuit:
    def test_waits_exactly_as_long_as_it_is_open(self, colour, clock):
        """And the wait counts as an attempt."""
        breaker = circuit_breaker(failure_threshold=1, recovery_timeout=30.0, probes=1)
        with pytest.raises(OSError):
            breaker.call(scripted(OSError))
        clock.advance(10)

        policy = retry(on=OSError, attempts=2, wait_for_circuit=True)
        assert "done" == colour.call(policy(breaker(colour.script("done"))))
        assert [20.0] == clock.sleeps

    def test_not_beyond_the_deadline(self, colour, clock):
        """Then the refusal is the answer."""
        breaker = circuit_breaker(failure_threshold=1)
        with pytest.raises(OSError):
            breaker.call(scripted(OSError))

        with deadline(10), pytest.raises(CircuitOpenError):
            colour.call(retry(on=OSError, wait_for_circuit=True)(breaker(colour.script())))
        assert [] == clock.sleeps

    def test_a_circuit_that_is_forced_open_is_not_waited_for(self, colour, clock):
        """Nobody knows for how long."""
        breaker = circuit_breaker()
        breaker.force_open()
        with pytest.raises(CircuitOpenError):
            colour.call(retry(on=OSError, wait_for_circuit=True)(breaker(colour.script())))
        assert [] == clock.sleeps


class TestBlocks:
    @pytest.mark.parametrize(
        "options",
        [{"as_group": True}, {"idempotent": lambda: False}, {"on_result": bool}],
        ids=["as_group", "idempotent", "on_result"],
    )
    def test_options_that_mean_nothing_to_a_block_are_refused(self, options):
        """They would be ignored silently."""
        with pytest.raises(ValueError, match=next(iter(options))):
            retry(on=OSError, **options).attempts()


class TestGenerators:
    @staticmethod
    def read(colour: Colour, policy: Any, script: Callable[[], object]) -> list[object]:
        @policy
        def generate(number: int) -> Iterator[object]:
            yield script()
            yield script()

        @policy
        async def agenerate(number: int) -> AsyncIterator[object]:
            yield script()
            yield script()

        async def collect() -> list[object]:
            return [item async for item in agenerate(1)]

        return list(generate(1)) if colour is Colour.BLOCKING else colour.call(collect)

    def test_all_options_reach_the_first_item(self, colour, clock):
        """Budget, hints, groups and the question of idempotency."""
        asked, budget = [], RetryBudget(ratio=1.0, reserve=0)
        policy = retry(
            on=BusyError,
            attempts=2,
            backoff=AT_ONCE,
            budget=budget,
            idempotent=lambda n: asked.append(n) or True,
        )
        assert [1, 2] == self.read(colour, policy, scripted(BusyError(20), 1, 2))
        assert [1] == asked
        assert 0 == budget.balance()
        assert 20 <= clock.now() <= 22

        group = retry(on=OSError, attempts=2, backoff=AT_ONCE, as_group=True)
        with pytest.raises(ExceptionGroup):
            self.read(colour, group, scripted(OSError, OSError))
        with pytest.raises(OSError):
            self.read(colour, group, scripted(1, OSError))


class TestObservations:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"attempts": 1}, "attempts"),
            ({"budget": RetryBudget(ratio=0.01, reserve=0)}, "budget"),
            ({"idempotent": lambda: False}, "not_idempotent"),
            ({"retry_after_cap": 1}, "retry_after"),
            ({"max_elapsed": 1}, "max_elapsed"),
        ],
        ids=["attempts", "budget", "idempotent", "hint", "elapsed"],
    )
    def test_the_reason_is_told(self, colour, options, reason):
        """Why it is not tried again."""
        seen = []
        with observe(seen.append), pytest.raises(BusyError):
            colour.protect(retry(on=BusyError, **options), colour.script(BusyError(20)))
        (told,) = [one for one in seen if one.kind == "retry.gave_up"]
        assert reason == told.details["reason"]


async def not_plain() -> None: ...


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"never": ()}, ValueError, "never"),
        ({"never": BaseException}, ValueError, "never"),
        ({"never": 3}, TypeError, "never"),
        ({"backoff": 3}, TypeError, "backoff"),
        ({"backoff": None}, TypeError, "backoff"),
        ({"backoff": not_plain}, TypeError, "backoff"),
        ({"retry_after": 3}, TypeError, "retry_after"),
        ({"retry_after": not_plain}, TypeError, "retry_after"),
        ({"retry_after_cap": -1}, ValueError, "retry_after_cap"),
        ({"retry_after_cap": float("nan")}, ValueError, "retry_after_cap"),
        ({"retry_after_cap": None}, TypeError, "retry_after_cap"),
        ({"budget": 0.2}, TypeError, "budget"),
        ({"budget": RetryBudget}, TypeError, "budget"),
        ({"idempotent": True}, TypeError, "idempotent"),
        ({"idempotent": not_plain}, TypeError, "idempotent"),
        ({"wait_for_circuit": 1}, TypeError, "wait_for_circuit"),
        ({"as_group": None}, TypeError, "as_group"),
    ],
)
def test_arguments_are_checked(options, error, named):
    """At construction, by name."""
    with pytest.raises(error, match=named):
        retry(on=OSError, **options)
