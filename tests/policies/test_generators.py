"""What each policy means for a generator, and which refuse them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from paintkit import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    CircuitState,
    DeadlineExceededError,
    RateLimitedError,
    backoff,
    bulkhead,
    circuit_breaker,
    deadline,
    fallback,
    hedge,
    observe,
    pipeline,
    rate_limit,
    retry,
    timeout,
)
from paintkit.testing import FakeClock, scripted
from tests.colours import Colour
from tests.suspensions import at_every_await


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


class Reader:
    """A protected generator of scripted items, read step by step in either colour."""

    def __init__(self, colour: Colour, policy: Any, script: Callable[[], object]) -> None:
        @policy
        def generate() -> Iterator[object]:
            while True:
                yield script()

        @policy
        async def agenerate() -> AsyncIterator[object]:
            while True:
                yield script()

        self._loop = asyncio.new_event_loop() if colour is Colour.ASYNCIO else None
        self._generator: Any = generate() if self._loop is None else agenerate()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._loop is not None:
            self._loop.close()

    def next(self) -> object:
        async def step() -> object:
            return await anext(self._generator)

        return next(self._generator) if self._loop is None else self._loop.run_until_complete(step())

    def close(self) -> None:
        if self._loop is None:
            self._generator.close()
        else:
            self._loop.run_until_complete(self._generator.aclose())


def test_nothing_happens_before_the_first_item(colour):
    """T19: making a generator is no call; no policy is asked, and none refuses."""
    policies = [
        retry(on=OSError),
        rate_limit(1, per=1000),
        bulkhead(1),
        circuit_breaker(failure_threshold=1),
        timeout(1.0, cooperative=True),
        fallback([], on=KeyError),
    ]
    for policy in policies:
        script = scripted(1)
        for _ in range(3):
            with Reader(colour, policy, script):
                pass
        with Reader(colour, policy, script) as reader:
            assert 1 == reader.next()


def test_retry_restarts_before_the_first_item_only(colour, clock):
    """No reader sees an item twice."""
    policy = retry(on=OSError, attempts=3, backoff=backoff.constant(1))
    with Reader(colour, policy, scripted(OSError, OSError, 1, 2, OSError)) as reader:
        assert [1, 2] == [reader.next(), reader.next()]
        assert 2 == policy.retries
        with pytest.raises(OSError):
            reader.next()
    assert 2 == policy.retries


def test_breaker_decides_at_the_end(colour):
    """A failure at any item counts; an early close says nothing; an open circuit refuses the first item."""
    breaker = circuit_breaker(failure_threshold=1)
    with Reader(colour, breaker, scripted(1, 2)) as reader:
        assert [1, 2] == [reader.next(), reader.next()]
    assert CircuitState.CLOSED is breaker.state
    with Reader(colour, breaker, scripted(1, OSError)) as reader:
        reader.next()
        with pytest.raises(OSError):
            reader.next()
    assert CircuitState.OPEN is breaker.state
    script = scripted()
    with Reader(colour, breaker, script) as reader, pytest.raises(CircuitOpenError):
        reader.next()
    assert 0 == script.count


def test_breaker_with_a_window_takes_an_early_close_for_nothing(colour):
    """Neither a call nor a failure."""
    breaker = circuit_breaker(min_calls=1)
    with Reader(colour, breaker, scripted(1, 2)) as reader:
        reader.next()
    assert 0 == breaker.metrics().calls


def test_bulkhead_holds_its_permit_to_the_end(colour):
    """However slowly it is read."""
    policy = bulkhead(1)
    with Reader(colour, policy, scripted(1, 2)) as reader:
        reader.next()
        with pytest.raises(BulkheadFullError):
            policy.call(scripted())
        reader.next()
        assert 1 == policy.metrics().running
    assert 0 == policy.metrics().running


def test_a_failed_generator_gives_its_permit_back(colour):
    """At whichever item."""
    policy = bulkhead(1)
    for script in (scripted(OSError), scripted(1, OSError)):
        with Reader(colour, policy, script) as reader, pytest.raises(OSError):
            while True:
                reader.next()
        assert 0 == policy.metrics().running


def test_rate_limit_takes_one_token(colour):
    """For all items, with the first."""
    policy = rate_limit(2, per=1000)
    for _ in range(2):
        with Reader(colour, policy, scripted(1, 2, 3)) as reader:
            assert [1, 2, 3] == [reader.next() for _ in range(3)]
    with Reader(colour, policy, scripted()) as reader, pytest.raises(RateLimitedError):
        reader.next()


def test_fallback_answers_before_the_first_item_only(colour):
    """And is told as for any call."""
    seen: list[Any] = []
    policy = fallback([7], on=OSError, name="empty")
    with observe(seen.append):
        with Reader(colour, policy, scripted(OSError)) as reader:
            assert 7 == reader.next()
        with Reader(colour, policy, scripted(1, OSError)) as reader:
            reader.next()
            with pytest.raises(OSError):
                reader.next()
    assert ["fallback.used"] == [one.kind for one in seen]


@pytest.mark.parametrize("policy", [hedge(1.0, idempotent=True), deadline(1.0)], ids=["hedge", "deadline"])
def test_some_refuse_them(colour, policy):
    """At decoration: a hedge would yield everything twice, a deadline leak to the reader."""
    with pytest.raises(TypeError, match="generator"):
        Reader(colour, policy, scripted())


def test_a_deadline_that_is_over_opens_nothing(colour, clock):
    """Under retry."""
    script = scripted()
    with deadline(1.0), Reader(colour, retry(on=OSError), script) as reader:
        clock.advance(1.0)
        if colour is Colour.BLOCKING:
            with pytest.raises(DeadlineExceededError):
                reader.next()
            assert 0 == script.count


def test_cancellation_at_every_await(clock):
    """T22: reading a stream under all of them leaves neither permit nor deadline behind."""

    def scenario(interrupted: Any) -> bool:
        permits, breaker = bulkhead(1, max_wait=5), circuit_breaker(failure_threshold=1)
        policy = pipeline(
            retry(on=OSError), rate_limit(1, burst=1, max_wait=5), permits, breaker, timeout(5.0)
        )
        closed = []

        @policy
        async def generate() -> AsyncIterator[int]:
            try:
                for number in range(3):
                    await asyncio.sleep(1)
                    yield number
            finally:
                closed.append(True)

        async def read() -> list[int]:
            async with contextlib.aclosing(generate()) as reader:
                return [item async for item in reader]

        async def main() -> bool:
            try:
                assert [0, 1, 2] == await interrupted(read())
            except asyncio.CancelledError:
                asyncio.current_task().uncancel()
                cancelled = True
            else:
                cancelled = False
            assert [True] == closed
            assert (1, 0, 0) == permits.metrics()[:3]
            assert CircuitState.CLOSED is breaker.state
            return cancelled

        return clock.run(main())

    assert 3 == at_every_await(scenario)


def test_an_item_that_is_late_is_our_timeout(clock):
    """The stream ends, its permit comes back, and the breaker outside has seen a failure."""
    permits, breaker = bulkhead(1), circuit_breaker(failure_threshold=1)

    @pipeline(breaker, permits, timeout(2.0))
    async def generate() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(10)
        yield 2

    async def main() -> None:
        async with contextlib.aclosing(generate()) as reader:
            assert 1 == await anext(reader)
            with pytest.raises(CallTimeoutError):
                await anext(reader)

    clock.run(main())
    assert 2.0 == clock.now()
    assert 0 == permits.metrics().running
    assert CircuitState.OPEN is breaker.state
