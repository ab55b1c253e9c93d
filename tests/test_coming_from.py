"""What the page for those who come from other libraries promises, where no other test holds it."""

import asyncio
import re
from pathlib import Path

import pytest

from paintkit import (
    CallTimeoutError,
    CircuitState,
    backoff,
    circuit_breaker,
    observe,
    pipeline,
    retry,
    timeout,
)
from paintkit.testing import FakeClock

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "coming-from.md"

AT_ONCE = backoff.constant(0)


class Calls:
    """A function that raises what it is given, in turn, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.made = 0

    def __call__(self, *_args: object) -> str:
        self.made += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def test_every_test_that_is_named_exists() -> None:
    """The page names tests that there are."""
    source = "".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))

    named = re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8"))

    assert len(named) > 30
    assert [] == [name for name in named if f"def {name}(" not in source]


def test_never_wins_over_on() -> None:
    """What is never worth another attempt is raised at once, whatever `on` says."""
    calls = Calls(FileNotFoundError("gone"))

    with pytest.raises(FileNotFoundError):
        retry(on=OSError, never=FileNotFoundError, backoff=AT_ONCE).call(calls)

    assert 1 == calls.made


def test_each_attempt_has_its_own_timeout() -> None:
    """A timeout inside a retry ends one attempt, and the next begins anew."""
    started = []

    @pipeline(retry(on=CallTimeoutError, attempts=3, backoff=AT_ONCE), timeout(2.0))
    async def hang() -> None:
        started.append(clock.now())
        await asyncio.sleep(60)

    with FakeClock() as clock, pytest.raises(CallTimeoutError):
        clock.run(hang())

    assert [0.0, 2.0, 4.0] == started


def test_delays_by_the_kind_of_error() -> None:
    """A function chooses the schedule by what went wrong."""
    delays = []
    policy = retry(
        on=OSError,
        attempts=4,
        backoff=lambda error: backoff.constant(5.0 if isinstance(error, ConnectionError) else 1.0),
    )

    with FakeClock(), observe(lambda one: delays.append(one.details["delay"])):
        policy.call(Calls(OSError(), ConnectionError(), OSError()))

    assert [1.0, 5.0, 1.0] == delays


def test_what_may_not_be_repeated_is_not() -> None:
    """`idempotent` sees the arguments of the call, and decides whether there is another attempt."""
    policy = retry(on=OSError, backoff=AT_ONCE, idempotent=lambda method: method == "GET")
    reading, writing = Calls(OSError()), Calls(OSError())

    assert "answer" == policy.call(reading, "GET")
    with pytest.raises(OSError):
        policy.call(writing, "POST")

    assert (2, 1) == (reading.made, writing.made)


def test_all_failures_as_a_group() -> None:
    """With `as_group`, whoever gives up tells all that went wrong, in order."""
    first, second = OSError("first"), OSError("second")

    with pytest.raises(ExceptionGroup) as told:
        retry(on=OSError, attempts=2, backoff=AT_ONCE, as_group=True).call(Calls(first, second))

    assert (first, second) == told.value.exceptions


def test_slow_calls_open_it() -> None:
    """Calls that succeed, but slowly, open a circuit that counts slow calls."""
    breaker = circuit_breaker(min_calls=2, slow_call_duration=1.0, slow_call_rate=1.0)

    with FakeClock() as clock:
        breaker.call(clock.advance, 1.0)
        breaker.call(clock.advance, 1.0)

        assert CircuitState.OPEN is breaker.state


def test_a_rate_of_few_calls_means_nothing() -> None:
    """Before `min_calls`, not even a rate of failures of one opens the circuit."""
    breaker = circuit_breaker(failure_rate=0.5, min_calls=3)

    with FakeClock():
        for expected in (CircuitState.CLOSED, CircuitState.CLOSED, CircuitState.OPEN):
            with pytest.raises(OSError):
                breaker.call(Calls(OSError()))
            assert expected is breaker.state


def test_a_result_counts_as_a_failure() -> None:
    """A result that `record_result` is true for counts as a failure, and is returned all the same."""
    breaker = circuit_breaker(failure_threshold=2, record_result=lambda status: status >= 500)

    with FakeClock():
        assert [200, 503, 503] == [breaker.call(int, status) for status in (200, 503, 503)]

        assert CircuitState.OPEN is breaker.state
