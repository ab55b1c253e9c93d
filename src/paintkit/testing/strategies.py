"""Hypothesis strategies for what resilience code meets: schedules, policies, outages, and histories of calls.

Durations are whole milliseconds as float seconds, so that examples shrink to numbers that can be read. Random schedules
bear a seeded source of randomness, so that every example can be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple, TypeVar, get_args

from hypothesis import strategies as st

from paintkit import _arguments, backoff, circuit_breaker, retry
from paintkit.testing._chaos import Chaos, chaos
from paintkit.testing._outage import Outage

if TYPE_CHECKING:
    from paintkit.policies._circuit_breaker import CircuitBreaker
    from paintkit.policies._retry import Retry
    from paintkit.typing import ErrorMatch

__all__ = [
    "Call",
    "backoffs",
    "call_histories",
    "chaoses",
    "circuit_breakers",
    "durations",
    "outages",
    "policies",
    "retries",
]


S = TypeVar("S")


class Call(NamedTuple):
    """One call of a history.

    Attributes:
        gap: Seconds since the call before it ended.
        takes: Seconds that it takes.
        fails: Whether it fails.
    """

    gap: float
    takes: float
    fails: bool


def durations(shortest: float = 0.0, longest: float = 3600.0) -> st.SearchStrategy[float]:
    """Whole milliseconds, as seconds.

    Args:
        shortest: The least, in seconds (>= 0).
        longest: The most, in seconds (>= `shortest`).

    Example:
        >>> from hypothesis import find
        >>> find(durations(longest=60.0), lambda seconds: seconds > 1)
        1.001
    """
    least = _arguments.seconds("shortest", shortest, zero=True)
    most = _arguments.seconds("longest", longest, zero=True)
    if least > most:
        raise ValueError(f"shortest must not exceed longest, but {shortest!r} > {longest!r}")
    return st.integers(math.ceil(least * 1000), math.floor(most * 1000)).map(
        lambda thousandths: thousandths / 1000
    )


def backoffs(
    *, jitters: Sequence[backoff.Jitter] = get_args(backoff.Jitter), longest: float = 3600.0
) -> st.SearchStrategy[backoff.Backoff | backoff.Fibonacci]:
    """Schedules of every shape that takes a jitter: constant, linear, exponential, Fibonacci.

    Args:
        jitters: The kinds of jitter to choose from; all by default.
        longest: The highest cap, in seconds (at least 1 millisecond, at most a day).

    Example:
        >>> from hypothesis import find
        >>> find(backoffs(jitters=["none"]), lambda schedule: schedule.cap > 1).cap
        1.001
    """
    _arguments.seconds("longest", longest, most=backoff.LONGEST_DELAY)
    options = {"jitter": st.sampled_from(tuple(jitters)), "rng": st.integers(0, 2**32 - 1).map(Random)}
    growth = st.integers(100, 1000).map(lambda hundredths: hundredths / 100)
    return st.one_of(
        st.builds(backoff.constant, durations(longest=longest), **options),
        _capped(longest, backoff.linear, step=durations(longest=longest), **options),
        _capped(longest, backoff.exponential, factor=growth, **options),
        _capped(longest, backoff.fibonacci, **options),
    )


def _capped(
    longest: float, shape: Callable[..., S], **options: st.SearchStrategy[object]
) -> st.SearchStrategy[S]:
    def below(cap: float) -> st.SearchStrategy[S]:
        return st.builds(shape, durations(0.001, cap), cap=st.just(cap), **options)

    return durations(0.001, longest).flatmap(below)


def retries(on: ErrorMatch = Exception, *, most_attempts: int = 6) -> st.SearchStrategy[Retry]:
    """Retry policies.

    Args:
        on: What they retry: types or a predicate.
        most_attempts: The most attempts that one makes (>= 1).
    """
    _arguments.count("most_attempts", most_attempts)
    return st.builds(
        retry,
        on=st.just(on),
        attempts=st.integers(1, most_attempts),
        backoff=backoffs(longest=60.0),
        max_elapsed=st.none() | durations(0.001, 600.0),
    )


def circuit_breakers() -> st.SearchStrategy[CircuitBreaker]:
    """Circuit breakers that open after a streak of failures."""
    return st.builds(
        circuit_breaker,
        st.just("generated"),
        failure_threshold=st.integers(1, 6),
        recovery_timeout=durations(0.001, 120.0),
        probes=st.integers(1, 4),
    )


def policies(on: ErrorMatch = Exception) -> st.SearchStrategy[Retry | CircuitBreaker]:
    """Policies of every kind.

    Args:
        on: What counts for those that have to be told: types or a predicate.
    """
    return retries(on) | circuit_breakers()


def outages(*, horizon: float = 600.0, most: int = 3) -> st.SearchStrategy[Outage]:
    """Outages: none at all, one, or several, each at least a millisecond long; often down from the start.

    Args:
        horizon: When the last one is over, in seconds from 0 (> 0).
        most: The most spans of one outage (>= 0).

    Example:
        >>> from hypothesis import find
        >>> find(outages(), lambda outage: outage.is_down(30.0)).spans
        ((0.0, 30.001),)
    """
    _arguments.seconds("horizon", horizon)
    _arguments.count("most", most, least=0)
    turns = st.lists(durations(longest=horizon), max_size=2 * most, unique=True).map(sorted)
    return st.builds(_outage, turns, st.booleans())


def _outage(turns: list[float], down_from_the_start: bool) -> Outage:
    began = [0.0, *turns[2::2]] if down_from_the_start and turns else turns[::2]
    return Outage(tuple(zip(began, turns[1::2], strict=False)))


def chaoses(on: type[Exception] = ConnectionError, *, most_latency: float = 5.0) -> st.SearchStrategy[Chaos]:
    """Chaos of any strength, from none at all to an error for every call; each with a seed of its own.

    Args:
        on: The error that it raises.
        most_latency: The longest wait of a call, in seconds (>= 0).

    Example:
        >>> from hypothesis import given
        >>> @given(chaoses())
        ... def test(storm):
        ...     assert all(0.0 <= storm.plan(number).delay <= 5.0 for number in range(10))
        >>> test()
    """
    return st.builds(
        lambda share, lost, latency, seed: chaos({on: share}, lost=lost, latency=(0.0, latency), seed=seed),
        share=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
        lost=st.sampled_from([0.0, 0.5, 1.0]),
        latency=durations(0.0, most_latency),
        seed=st.integers(0, 2**32 - 1),
    )


def call_histories(
    *, longest_gap: float = 120.0, longest_call: float = 0.0, most: int = 40
) -> st.SearchStrategy[list[Call]]:
    """Histories of calls, one after the other.

    Args:
        longest_gap: The most seconds between two calls (>= 0).
        longest_call: The most seconds that a call takes (>= 0); instant ones by default.
        most: The most calls (>= 0).
    """
    _arguments.count("most", most, least=0)
    call = st.builds(Call, durations(longest=longest_gap), durations(longest=longest_call), st.booleans())
    return st.lists(call, max_size=most)
