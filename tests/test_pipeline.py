"""Pipelines: the same as their policies stacked, in one frame, with an honest account of what they come to."""

import asyncio
import functools
import inspect
import math
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paintkit import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    CircuitState,
    DeadlineExceededError,
    RateLimitedError,
    RejectedError,
    RetryBudget,
    backoff,
    bulkhead,
    circuit_breaker,
    deadline,
    fallback,
    hedge,
    observe,
    pipeline,
    rate_limit,
    remaining,
    retry,
    timeout,
)
from paintkit import clock as source
from paintkit._pipeline import Pipeline
from paintkit.testing import FakeClock, scripted
from tests.colours import Colour
from tests.suspensions import at_every_await

MAKERS: dict[str, Callable[[], Any]] = {
    "fallback": lambda: fallback("instead", on=(RejectedError, KeyError)),
    "deadline": lambda: deadline(5.0),
    "retry": lambda: retry(on=OSError, attempts=3, backoff=backoff.constant(0.5)),
    "retry results": lambda: retry(
        on=KeyError, attempts=2, backoff=backoff.constant(0.25), on_result=lambda result: result == "bad"
    ),
    "retry in budget": lambda: retry(
        on=OSError, attempts=9, backoff=backoff.constant(0.5), max_elapsed=3, budget=RetryBudget(reserve=0.2)
    ),
    "rate limit": lambda: rate_limit(1, burst=2, max_wait=0.75),
    "keyed rate limit": lambda: rate_limit(
        1, burst=2, key=lambda number: number % 2, weight=lambda number: 1
    ),
    "bulkhead": lambda: bulkhead(1),
    "streak": lambda: circuit_breaker("streak", failure_threshold=2, recovery_timeout=3.0, probes=1),
    "rate": lambda: circuit_breaker("rate", min_calls=3, window=20.0, recovery_timeout=3.0, probes=2),
    "slow": lambda: circuit_breaker(
        "slow", min_calls=2, slow_call_duration=1.0, recovery_timeout=2.0, record_result=lambda r: r == "bad"
    ),
    "timeout": lambda: timeout(1.5, cooperative=True),
}
ASYNC_ONLY: dict[str, Callable[[], Any]] = {
    "hedge": lambda: hedge(1.0, idempotent=True, on=OSError),
}

outcomes = st.sampled_from(["good", "good", "bad", OSError, KeyError, ValueError])
scripts = st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.5, 1.25, 4.0]), outcomes), min_size=1, max_size=8)
naps = st.lists(st.sampled_from([0.0, 0.0, 0.5, 2.0, 5.0]), min_size=1, max_size=8)


@st.composite
def kinds(draw: Any, colour: Colour = Colour.BLOCKING) -> tuple[str, ...]:
    """Draw some policies in any order, but with the fallback first."""
    known = [*MAKERS, *(ASYNC_ONLY if colour is Colour.ASYNCIO else ())]
    drawn = draw(st.lists(st.sampled_from(known), min_size=1, max_size=5, unique=True))
    return tuple(sorted(drawn, key=lambda kind: kind != "fallback"))


def stacked(*policies: Any) -> Callable[[Any], Any]:
    """Return what decorators above each other do, the first outermost."""
    return lambda fn: functools.reduce(lambda inner, policy: policy(inner), reversed(policies), fn)


class History(NamedTuple):
    """All that can be seen of some calls."""

    results: list[object]
    calls: list[tuple[float, object]]
    told: list[tuple[object, ...]]
    sleeps: list[float]
    ends: list[float]


def history(
    compose: Callable[..., Any],
    kinds: tuple[str, ...],
    colour: Colour,
    script: list[tuple[float, Any]],
    naps: list[float],
) -> History:
    """Call a protected function several times, and write down what happens."""
    policies = [(MAKERS | ASYNC_ONLY)[kind]() for kind in kinds]
    seen = History([], [], [], [], [])
    steps = iter(script * 50)
    backoff.shared_rng().seed(1)

    def begin(number: int) -> tuple[float, Any]:
        seen.calls.append((source.now(), remaining()))
        return next(steps)

    def end(outcome: Any) -> Any:
        if isinstance(outcome, type):
            raise outcome
        return outcome

    def function(number: int) -> Any:
        seconds, outcome = begin(number)
        source.sleep(seconds)
        return end(outcome)

    async def coroutine_function(number: int) -> Any:
        seconds, outcome = begin(number)
        await asyncio.sleep(seconds)
        return end(outcome)

    def note(one: Any) -> None:
        details = {key: repr(value) for key, value in one.details.items()}
        seen.told.append((one.kind, one.source, *sorted(details.items())))

    with FakeClock(100.0) as clock, observe(note):
        protected = compose(*policies)(function if colour is Colour.BLOCKING else coroutine_function)
        for number, nap in enumerate(naps):
            try:
                seen.results.append(colour.call(protected, number))
            except Exception as error:
                seen.results.append((type(error), str(error), getattr(error, "__notes__", None)))
            seen.ends.append(clock.now())
            clock.advance(nap)
        seen.sleeps.extend(clock.sleeps)
    return seen


class TestOrder:
    @pytest.mark.parametrize("colour", list(Colour), ids=str)
    @given(st.data())
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    def test_equals_stacked_decorators(self, colour, data):
        """Results, errors, calls, deadlines inside, sleeps and observations: whatever the policies, order and script."""
        drawn, script, pauses = data.draw(kinds(colour)), data.draw(scripts), data.draw(naps)

        expected = history(stacked, drawn, colour, script, pauses)

        assert expected == history(pipeline, drawn, colour, script, pauses)

    @pytest.mark.parametrize("drawn", [("retry", "streak"), ("retry", "rate"), ("deadline", "retry")])
    def test_the_law_catches_another_order(self, drawn):
        """A pipeline turned inside out shows."""

        def turned(*policies: Any) -> Pipeline:
            return pipeline(*reversed(policies))

        script, pauses = [(1.25, OSError)], [0.0, 0.5, 2.0]
        expected = history(stacked, drawn, Colour.BLOCKING, script, pauses)

        assert expected == history(pipeline, drawn, Colour.BLOCKING, script, pauses)
        assert expected != history(turned, drawn, Colour.BLOCKING, script, pauses)

    def test_the_order_of_the_documentation(self, colour):
        """Each attempt is paid for, refusals do not trip the breaker, and no permit is held while retry sleeps."""
        permits = bulkhead(1)
        supplier = circuit_breaker("supplier", failure_threshold=3, recovery_timeout=30.0)
        held, calls = [], []
        tokens = rate_limit(1000, key=lambda: calls.append(1))
        with FakeClock() as clock:
            policy = pipeline(
                fallback("instead", on=CircuitOpenError),
                deadline(10.0),
                retry(on=OSError, attempts=3, backoff=backoff.constant(1)),
                tokens,
                permits,
                supplier,
            )
            with observe(lambda one: held.append(permits.metrics().running)):
                with pytest.raises(OSError):
                    colour.protect(policy, colour.script(forever=OSError))
                assert 2.0 == clock.now()
                assert "instead" == colour.protect(policy, colour.script())
                with permits.hold(), pytest.raises(BulkheadFullError):
                    colour.protect(policy, colour.script())

        assert 5 == len(calls)
        assert 3 == supplier.metrics().failures
        assert 0 == held[0]


class TestProtection:
    def test_keeps_what_a_function_is(self, colour):
        """Name, documentation, signature, defaults by identity, and colour."""
        default = []

        def body(one, /, two=default, *three, four, five=5, **six) -> str:
            """Documented."""
            return f"{one}{two}{three}{four}{five}{six}"

        function = colour.function(body)
        protected = pipeline(retry(on=OSError), bulkhead(2), circuit_breaker())(function)

        assert inspect.signature(body) == inspect.signature(protected)
        assert (body.__name__, body.__doc__) == (protected.__name__, protected.__doc__)
        assert inspect.iscoroutinefunction(function) == inspect.iscoroutinefunction(protected)
        assert body(1, 2, 3, four=4, seven=7) == colour.call(protected, 1, 2, 3, four=4, seven=7)
        assert default is colour.call(
            pipeline(retry(on=OSError), bulkhead(2))(colour.function(lambda x=default: x))
        )

    def test_methods_objects_and_partials(self, colour):
        """As every policy does."""
        policy = pipeline(retry(on=OSError, attempts=2, backoff=backoff.constant(0)), bulkhead(2))

        class Shop:
            @policy
            @colour.function
            def method(self, value: int) -> tuple[object, int]:
                return self, value

        shop = Shop()
        assert (shop, 3) == colour.call(shop.method, 3)
        assert "done" == colour.call(policy(colour.script(OSError, "done")))
        assert (shop, 4) == colour.call(policy(functools.partial(shop.method, 4)))

    def test_hostile_names(self):
        """Parameters that are called like our own."""
        policy = pipeline(
            retry(on=OSError), rate_limit(9), bulkhead(1), circuit_breaker(), timeout(1, thread=True)
        )

        @policy
        def function(_p_fn, fn, result_1, call, *, now_1, free_2, breaker_3, self):
            return _p_fn, fn, result_1, call, now_1, free_2, breaker_3, self

        assert tuple(range(8)) == function(*range(4), now_1=4, free_2=5, breaker_3=6, self=7)

    def test_call_and_acall(self, colour):
        """Keys, weights and the question of idempotency see the user's own arguments."""
        asked = []

        def ask(*args: Any, **kwargs: Any) -> bool:
            asked.append((args, kwargs))
            return True

        policy = pipeline(
            retry(on=OSError, attempts=2, backoff=backoff.constant(0), idempotent=ask),
            rate_limit(9, key=ask, weight=lambda *a, **k: ask(*a, **k) + 0.0),
            circuit_breaker(),
        )
        assert "done" == colour.protect(policy, colour.script(OSError, "done"), 1, two=2)
        assert [((1,), {"two": 2})] * 5 == asked

    def test_one_frame(self, colour):
        """However many policies there are."""

        def ours() -> list[str]:
            frames = [entry for entry in traceback.extract_stack() if entry.filename.startswith("<paintkit")]
            return [entry.name for entry in frames]

        policy = pipeline(retry(on=OSError), rate_limit(9), bulkhead(1), circuit_breaker())
        assert ["pipeline"] == colour.call(policy(colour.function(ours)))

    def test_a_policy_out_of_line(self, colour):
        """One that calls from a thread or a task of its own keeps its place."""
        outer, inner = bulkhead(1), circuit_breaker(failure_threshold=1)
        middle = timeout(5, thread=True) if colour is Colour.BLOCKING else hedge(5, idempotent=True)
        policy = pipeline(retry(on=KeyError), outer, middle, inner)
        seen = []

        def function() -> str:
            seen.append(outer.metrics().running)
            return "done"

        assert "done" == colour.protect(policy, colour.function(function))
        assert [1] == seen
        with pytest.raises(OSError):
            colour.protect(policy, colour.script(OSError))
        with pytest.raises(CircuitOpenError):
            colour.protect(policy, colour.script())
        assert 0 == outer.metrics().running

    def test_generators(self, colour):
        """Retry before the first item, one permit to the end, time per item."""
        permits = bulkhead(1)
        policy = pipeline(
            retry(on=OSError, attempts=2, backoff=backoff.constant(0)),
            permits,
            timeout(2.0, cooperative=True),
        )
        script = scripted(OSError, 1, 2)

        @policy
        def generate() -> Iterator[int]:
            for _ in range(2):
                yield script()

        @policy
        async def agenerate() -> AsyncIterator[int]:
            for _ in range(2):
                yield script()

        async def collect() -> list[int]:
            return [item async for item in agenerate() if permits.metrics().running == 1]

        if colour is Colour.BLOCKING:
            assert [1, 2] == [item for item in generate() if permits.metrics().running == 1]
        else:
            assert [1, 2] == colour.call(collect)
        assert 0 == permits.metrics().running


class TestCancellation:
    def test_at_every_await(self):
        """Nothing is left behind: no permit, token, deadline, task, probe or share of the budget."""

        def scenario(interrupted: Any) -> bool:
            permits, breaker = bulkhead(1, max_wait=9), circuit_breaker(failure_threshold=5)
            tokens, budget = rate_limit(1, burst=1, max_wait=9), RetryBudget(ratio=1.0, reserve=0)
            outcomes = iter([OSError, "good", "good", "good"])

            async def body() -> object:
                await asyncio.sleep(0.25)
                outcome = next(outcomes)
                if isinstance(outcome, type):
                    raise outcome
                return outcome

            policy = pipeline(
                fallback("instead", on=RejectedError),
                deadline(60.0),
                retry(on=OSError, attempts=3, backoff=backoff.constant(0.5), budget=budget),
                tokens,
                permits,
                hedge(5.0, idempotent=True, on=ValueError),
                breaker,
                timeout(5.0),
            )

            async def main() -> bool:
                try:
                    assert "good" == await interrupted(policy.acall(body))
                except asyncio.CancelledError:
                    asyncio.current_task().uncancel()
                    cancelled = True
                else:
                    cancelled = False
                await asyncio.sleep(0)
                assert {asyncio.current_task()} == asyncio.all_tasks()
                assert remaining() is None
                assert (1, 0, 0) == permits.metrics()[:3]
                assert CircuitState.CLOSED is breaker.state
                assert budget.balance() in {0.0, 1.0}
                await asyncio.sleep(2)
                assert tokens._buckets.only.is_full(source.now())
                return cancelled

            with FakeClock() as clock:
                return clock.run(main())

        assert 4 == at_every_await(scenario)


class TestRefusals:
    def test_what_makes_no_pipeline(self):
        """At construction."""
        policy = retry(on=OSError)
        with pytest.raises(ValueError, match="at least one"):
            pipeline()
        with pytest.raises(ValueError, match="twice"):
            pipeline(policy, bulkhead(1), policy)
        with pytest.raises(ValueError, match="first"):
            pipeline(policy, fallback(1, on=OSError))
        with pytest.raises(ValueError, match="first"):
            pipeline(fallback(1, on=OSError), fallback(2, on=KeyError))

    @pytest.mark.parametrize("thing", [None, 3, retry, len, "policy", (retry(on=OSError),)])
    def test_what_is_no_policy(self, thing):
        """Also where it could be called."""
        with pytest.raises(TypeError, match="policies"):
            pipeline(retry(on=OSError), thing)

    def test_what_one_policy_cannot_protect(self):
        """The pipeline cannot either, and says what that policy says."""

        def function() -> None: ...

        def generator() -> Iterator[int]:
            yield 1

        for outer in (retry(on=OSError), hedge(1.0, idempotent=True), timeout(5, thread=True)):
            with pytest.raises(TypeError, match="thread=True"):
                pipeline(outer, timeout(1.0), bulkhead(1))(function)
        for policy in (hedge(1.0, idempotent=True), deadline(1.0)):
            for place in (pipeline(retry(on=OSError), policy), pipeline(policy, retry(on=OSError))):
                with pytest.raises(TypeError, match="generator"):
                    place(generator)
        with pytest.raises(TypeError, match="callable"):
            pipeline(retry(on=OSError), bulkhead(1))(3)


class TestPipelinesInside:
    def test_are_taken_apart(self, colour):
        """One of pipelines is as one of policies."""
        inner = pipeline(bulkhead(1), circuit_breaker(failure_threshold=1))
        outer = pipeline(fallback(0, on=CircuitOpenError), pipeline(retry(on=OSError, attempts=1)), inner)

        assert ("fallback", "retry", "bulkhead", "circuit_breaker") == outer.describe()
        with pytest.raises(OSError):
            colour.protect(outer, colour.script(OSError))
        assert 0 == colour.protect(outer, colour.script())

    def test_obey_the_same_rules(self):
        """A policy twice, or a fallback inside, is refused wherever it comes from."""
        policy = bulkhead(1)
        with pytest.raises(ValueError, match="twice"):
            pipeline(policy, pipeline(retry(on=OSError), policy))
        with pytest.raises(ValueError, match="first"):
            pipeline(policy, pipeline(fallback(1, on=OSError)))


EVERY_SECOND = backoff.constant(1.0)


class TestExplanation:
    def test_worst_case(self):
        """Attempts, delays, queues and spans add up from the inside out."""
        account = pipeline(
            retry(on=OSError, attempts=3, backoff=EVERY_SECOND),
            rate_limit(5, max_wait=0.25),
            bulkhead(2, max_wait=0.5),
            circuit_breaker(),
            timeout(2.0),
        ).explain()

        assert 3 == account.calls
        assert 3 * (0.25 + 0.5 + 2.0) + 2 * 1.0 == account.seconds
        assert () == account.warnings
        assert 5 == len(account.order)
        assert "retry" in account.order[0]
        assert "timeout" in account.order[-1]

    def test_jitter_and_growth_count_at_their_longest(self):
        """Full jitter never waits longer than its ceiling."""
        policy = retry(on=OSError, attempts=4, backoff=backoff.exponential(1.0, cap=3.0))
        assert 3 * 0 + 1 + 2 + 3 + 4 * 2 == pipeline(policy, timeout(2.0)).explain().seconds

    @pytest.mark.parametrize(
        ("policies", "calls", "seconds"),
        [
            ([retry(on=OSError)], 3, math.inf),
            ([deadline(5.0), retry(on=OSError)], 3, 5.0),
            ([hedge(0.5, idempotent=True, tries=3), timeout(2.0)], 3, 3.0),
            ([retry(on=OSError, attempts=2, backoff=EVERY_SECOND, max_elapsed=1.5), timeout(1.0)], 2, 2.5),
            ([bulkhead(1)], 1, math.inf),
        ],
    )
    def test_bounds(self, policies, calls, seconds):
        """Whatever bounds the time, and whatever multiplies the calls."""
        account = pipeline(*policies).explain()
        assert (calls, seconds) == (account.calls, account.seconds)

    def test_the_worst_case_is_not_exceeded(self, colour):
        """When everything fails as slowly as it can."""
        policy = pipeline(
            retry(on=(OSError, TimeoutError), attempts=3, backoff=EVERY_SECOND), bulkhead(2), timeout(2.0)
        )
        account, count = policy.explain(), 0

        async def hang() -> None:
            nonlocal count
            count += 1
            await asyncio.sleep(100)

        with FakeClock() as clock, pytest.raises(CallTimeoutError):
            clock.run(policy.acall(hang))
        assert account.calls == count
        assert account.seconds == clock.now()

    def test_as_text(self):
        """One policy below the other, the sum, and what is wrong."""
        text = str(pipeline(circuit_breaker("supplier"), retry(on=OSError, attempts=2)).explain())
        first, second, total, warning = text.split("\n")

        assert "<circuit_breaker 'supplier': closed>" == first
        assert "  <retry 'retry': 2 attempts>" == second
        assert "at worst 2 calls, without bound" == total
        assert warning.startswith("warning: ")
        assert "up to 2 s" in str(pipeline(timeout(2.0)).explain())

    def test_describe(self):
        """The kinds, for a test of what was composed."""
        policy = pipeline(fallback(1, on=OSError), deadline(1), hedge(1.0, idempotent=True), rate_limit(1))
        assert ("fallback", "deadline", "hedge", "rate_limit") == policy.describe()
        assert "<pipeline fallback > deadline > hedge > rate_limit>" == repr(policy)

    @pytest.mark.parametrize(
        ("policies", "words"),
        [
            (
                [deadline(3.0), retry(on=OSError, attempts=4, backoff=EVERY_SECOND), timeout(2.0)],
                "shorten the timeout",
            ),
            ([retry(on=OSError), retry(on=KeyError)], "9 calls"),
            ([circuit_breaker(), retry(on=OSError)], "breaker is outside the retry"),
            ([bulkhead(1), retry(on=OSError)], "holds its permit while"),
            ([timeout(1.0), retry(on=OSError)], "use deadline"),
        ],
    )
    def test_warnings(self, policies, words):
        """Each mistake is told once, and the right order says nothing."""
        (warning,) = pipeline(*policies).explain().warnings
        assert words in warning

    @pytest.mark.parametrize(
        "policies",
        [
            [deadline(20.0), retry(on=OSError, attempts=2, backoff=EVERY_SECOND), timeout(2.0)],
            [retry(on=OSError), circuit_breaker(), timeout(1.0)],
            [retry(on=OSError), bulkhead(1)],
            [deadline(1.0), timeout(2.0)],
        ],
    )
    def test_no_warning_without_reason(self, policies):
        """A warning that is always there is read by nobody."""
        assert () == pipeline(*policies).explain().warnings


def test_an_observer_that_raises_breaks_nothing(colour, caplog):
    """In none of its policies."""
    policy = pipeline(
        fallback("instead", on=RejectedError),
        retry(on=OSError, attempts=2, backoff=backoff.constant(0)),
        rate_limit(2, per=1000),
        circuit_breaker(failure_threshold=1),
    )
    with observe(scripted(forever=ZeroDivisionError)):
        with pytest.raises(OSError):
            colour.protect(policy, colour.script(forever=OSError))
        assert "instead" == colour.protect(policy, colour.script())
    assert "ZeroDivisionError" in caplog.text


def test_a_first_success_tells_nothing(colour):
    """Of none of its policies."""
    seen: list[object] = []
    policy = pipeline(*(MAKERS[kind]() for kind in MAKERS))
    with observe(seen.append):
        assert "done" == colour.protect(policy, colour.script("done"), 1)
    assert [] == seen
    assert isinstance(policy, Pipeline)


def test_errors_have_no_part_in_each_other(colour):
    """A limit's refusal passes the retry that does not want it, the deadline's passes the fallback."""
    with FakeClock() as clock:
        policy = pipeline(fallback(1, on=KeyError), deadline(5.0), retry(on=OSError), rate_limit(1))
        colour.protect(policy, colour.script("done"))
        with pytest.raises(RateLimitedError):
            colour.protect(policy, colour.script())
        with deadline(1.0):
            clock.advance(1)
            with pytest.raises(DeadlineExceededError):
                colour.protect(policy, colour.script())
