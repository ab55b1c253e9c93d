"""A circuit breaker as a machine: who may pass, and what each result means.

Theory of operation. A breaker is in one state at a time, and every entry into a state starts a new *generation*. A call
that may pass gets a permit which remembers the generation; a result that comes back in another generation says nothing
about the present and is dropped.

| state        | a new call                         | leaves the state when                                             |
|--------------|------------------------------------|-------------------------------------------------------------------|
| CLOSED       | passes                             | the trip rule says so → OPEN                                      |
| OPEN         | is refused                         | its open time is over → HALF_OPEN                                 |
| HALF_OPEN    | passes with a lease, if one is free| enough probes succeeded → CLOSED; success out of reach → OPEN     |
| FORCED_OPEN  | is refused                         | only by `enter`                                                   |
| DISABLED     | passes, its result is not recorded | only by `enter`                                                   |
| METRICS_ONLY | passes, its result is recorded     | only by `enter`                                                   |

A *lease* is a probe's permit with an end. A probe that has not come back by then counts as failed, so that nothing (a
hang, a lost thread) can keep the breaker half-open for ever. A neutral result (an ignored error, a cancellation) gives
the lease back without a verdict.

The first open time is exactly `recovery_timeout`. After every failed round of probes it doubles, up to a limit, and is
spread by ±10 % so that many processes do not probe in step.

The machine is guarded by the lock of whoever drives it. `passing` alone is read without one.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from paintkit.machines.window import Window

__all__ = [
    "Breaker",
    "CircuitState",
    "Either",
    "Permit",
    "Rate",
    "Refusal",
    "Streak",
    "Transition",
    "TripRule",
]

_GROWTH = 2.0
_SPREAD = 0.1


class CircuitState(enum.Enum):
    """The states of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"
    METRICS_ONLY = "metrics_only"


_PASSING = frozenset({CircuitState.CLOSED, CircuitState.DISABLED, CircuitState.METRICS_ONLY})


class TripRule(Protocol):
    """Tells from the results of a closed breaker when it has to open."""

    def record(self, now: float, *, failed: bool, slow: bool) -> bool:
        """Record a call that ended at `now`; whether the breaker has to open."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def tolerated(self, probes: int, /) -> int:
        """How many of so many probes may fail in a round that is still a success."""
        ...


class Streak:
    """Trips after a number of failures in a row.

    Args:
        threshold: How many failures without a success between them trip the breaker (>= 1).
    """

    __slots__ = ("_threshold", "length")

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        #: Failures since the last success. Read without the lock: at 0 a success changes nothing.
        self.length = 0

    def record(self, now: float, *, failed: bool, slow: bool) -> bool:
        """Record a call; whether the streak has reached the threshold."""
        del now, slow
        self.length = self.length + 1 if failed else 0
        return self.length >= self._threshold

    def take_over(self, other: Streak) -> None:
        """Go on with the threshold of another streak."""
        self._threshold = other._threshold

    def clear(self) -> None:
        """Forget the streak."""
        self.length = 0

    def tolerated(self, probes: int) -> int:
        """No probe may fail: a failure starts the next streak."""
        del probes
        return 0


class Rate:
    """Trips when too large a share of the recent calls failed, or was slow.

    Args:
        window: What "recent" means.
        failure_rate: The share of failures that trips (> 0, at most 1).
        slow_rate: The share of slow calls that trips (> 0, at most 1); `None` if slowness does not matter.
        min_calls: How many calls the window must hold before a share means anything (>= 1).
    """

    __slots__ = ("_failure_rate", "_min_calls", "_slow_rate", "window")

    def __init__(self, window: Window, failure_rate: float, slow_rate: float | None, min_calls: int) -> None:
        self.window = window
        self._failure_rate = failure_rate
        self._slow_rate = math.inf if slow_rate is None else slow_rate
        self._min_calls = min_calls

    def record(self, now: float, *, failed: bool, slow: bool) -> bool:
        """Record a call; whether a share has reached its limit."""
        self.window.note(now, failed=failed, slow=slow)
        counts = self.window.counts(now)
        if counts.calls < self._min_calls:
            return False
        return (
            counts.failures >= self._failure_rate * counts.calls
            or counts.slow >= self._slow_rate * counts.calls
        )

    def take_over(self, other: Rate) -> None:
        """Go on with the limits of another rate; the window stays, with what it holds."""
        self._failure_rate, self._slow_rate = other._failure_rate, other._slow_rate
        self._min_calls = other._min_calls
        self.window.take_over(other.window)

    def clear(self) -> None:
        """Forget the window."""
        self.window.clear()

    def tolerated(self, probes: int) -> int:
        """As many failures as stay below the rate."""
        return math.ceil(min(self._failure_rate, self._slow_rate) * probes) - 1


class Either:
    """Trips when one of two rules does.

    Args:
        first: A rule.
        second: Another rule.
    """

    __slots__ = ("_rules",)

    def __init__(self, first: TripRule, second: TripRule) -> None:
        self._rules = (first, second)

    def record(self, now: float, *, failed: bool, slow: bool) -> bool:
        """Record a call with both; whether one of them trips."""
        tripped = [rule.record(now, failed=failed, slow=slow) for rule in self._rules]
        return any(tripped)

    def clear(self) -> None:
        """Forget everything."""
        for rule in self._rules:
            rule.clear()

    def tolerated(self, probes: int) -> int:
        """What the stricter rule tolerates."""
        return min(rule.tolerated(probes) for rule in self._rules)


class Permit(NamedTuple):
    """The right to make one call.

    Attributes:
        generation: The generation that gave it.
        lease: The number of the probe's lease, or `None` for a call of a passing state.
    """

    generation: int
    lease: int | None = None


class Refusal(NamedTuple):
    """The call may not run; `retry_after` is seconds until another has a chance, if that can be known."""

    retry_after: float | None


class Transition(NamedTuple):
    """The breaker went from one state to another."""

    before: CircuitState
    after: CircuitState


def _seconds_until(instant: float, now: float) -> float:
    """As many seconds as it takes: who sleeps them must not wake up a rounding error too early."""
    seconds = max(0.0, instant - now)
    return seconds if now + seconds >= instant else seconds + math.ulp(instant)


class Breaker:
    """See the module's documentation.

    Args:
        rule: When to trip.
        recovery_timeout: Seconds of the first open time (> 0).
        longest_recovery: The most that the open time can grow to, in seconds.
        probes: How many probes make a round (>= 1).
        concurrent_probes: How many leases may be out at once (>= 1).
        probe_timeout: Seconds until a lease ends.
        random: Draws from [0, 1) to spread the open time.
    """

    __slots__ = (
        "_concurrent",
        "_failures",
        "_lease_numbers",
        "_leases",
        "_longest",
        "_open_until",
        "_probe_timeout",
        "_probes",
        "_random",
        "_recovery_timeout",
        "_rounds",
        "_rule",
        "_successes",
        "generation",
        "passing",
        "state",
    )

    def __init__(
        self,
        rule: TripRule,
        *,
        recovery_timeout: float,
        longest_recovery: float,
        probes: int,
        concurrent_probes: int,
        probe_timeout: float,
        random: Callable[[], float],
    ) -> None:
        self._rule = rule
        self._recovery_timeout = recovery_timeout
        self._longest = longest_recovery
        self._probes = probes
        self._concurrent = concurrent_probes
        self._probe_timeout = probe_timeout
        self._random = random
        self._rounds = 0  # failed rounds of probes since the breaker was last closed
        self._open_until = 0.0
        self._leases: dict[int, float] = {}  # number → the instant of its end; only while half-open
        self._lease_numbers = itertools.count()
        self._successes = self._failures = 0  # of this round of probes
        #: The present state, as of the last `tick`.
        self.state = CircuitState.CLOSED
        #: Grows with every transition.
        self.generation = 0
        #: The generation while every call may pass, else `None`: all that a call of a healthy breaker reads.
        self.passing: int | None = 0

    def tick(self, now: float) -> Transition | None:
        """Make the transition that time alone has brought about, if any."""
        if self.state is CircuitState.OPEN and now >= self._open_until:
            return self.enter(CircuitState.HALF_OPEN, now)
        if self.state is CircuitState.HALF_OPEN:
            return self._expire_leases(now)
        return None

    def admit(self, now: float) -> Permit | Refusal:
        """Decide on a new call, after `tick`."""
        if self.passing is not None:
            return Permit(self.passing)
        if self.state is not CircuitState.HALF_OPEN:
            return Refusal(self.retry_after(now))
        given = self._successes + self._failures + len(self._leases)
        if len(self._leases) >= self._concurrent or given >= self._probes:
            return Refusal(self.retry_after(now))
        lease = next(self._lease_numbers)
        self._leases[lease] = now + self._probe_timeout
        return Permit(self.generation, lease)

    def retry_after(self, now: float) -> float | None:
        """Seconds until a refused call has a chance, or `None` if that is not a matter of time."""
        if self.state is CircuitState.OPEN:
            return _seconds_until(self._open_until, now)
        if self.state is CircuitState.HALF_OPEN and self._leases:
            return _seconds_until(min(self._leases.values()), now)
        return None

    def is_current(self, permit: Permit) -> bool:
        """Whether a result under this permit still counts."""
        if permit.generation != self.generation:
            return False
        return permit.lease is None or permit.lease in self._leases

    def record(self, permit: Permit, now: float, *, failed: bool, slow: bool = False) -> Transition | None:
        """Record the result of a call whose permit is current; a slow probe counts as failed."""
        if permit.lease is None:
            return self._record_while_passing(now, failed=failed, slow=slow)
        del self._leases[permit.lease]
        if failed or slow:
            self._failures += 1
        else:
            self._successes += 1
        return self._verdict(now)

    def released(self, permit: Permit) -> None:
        """Take back a current permit without a verdict."""
        if permit.lease is not None:
            del self._leases[permit.lease]

    def take_over(self, other: Breaker) -> None:
        """Go on with the settings of another machine; the state stays, and so does a lease that has been given."""
        for setting in ("_recovery_timeout", "_longest", "_probes", "_concurrent", "_probe_timeout"):
            setattr(self, setting, getattr(other, setting))

    @property
    def open_until(self) -> float:
        """The instant at which the open time is, or was, over."""
        return self._open_until

    def follow(self, state: CircuitState, seconds: float, now: float) -> Transition | None:
        """Do as the same breaker elsewhere has done: open for so many seconds, or close.

        What an operator has forced stays, and whoever is open already knows better for how long.
        """
        if state is CircuitState.OPEN and self.state in {CircuitState.CLOSED, CircuitState.HALF_OPEN}:
            transition = self.enter(CircuitState.OPEN, now)
            self._open_until = now + seconds
            return transition
        if state is CircuitState.CLOSED and self.state in {CircuitState.OPEN, CircuitState.HALF_OPEN}:
            return self.enter(CircuitState.CLOSED, now)
        return None

    def enter(self, state: CircuitState, now: float) -> Transition:
        """Go to a state, whatever the present one is."""
        transition = Transition(self.state, state)
        self.state = state
        self.generation += 1
        self.passing = self.generation if state in _PASSING else None
        self._leases.clear()
        self._successes = self._failures = 0
        if state is CircuitState.OPEN:
            self._open_until = now + self._open_time()
        else:
            self._rule.clear()
        if state is CircuitState.CLOSED:
            self._rounds = 0
        return transition

    def _record_while_passing(self, now: float, *, failed: bool, slow: bool) -> Transition | None:
        if self.state is CircuitState.DISABLED:
            return None
        tripped = self._rule.record(now, failed=failed, slow=slow)
        if tripped and self.state is CircuitState.CLOSED:
            return self.enter(CircuitState.OPEN, now)
        return None

    def _expire_leases(self, now: float) -> Transition | None:
        for lease in [lease for lease, end in self._leases.items() if end <= now]:
            del self._leases[lease]
            self._failures += 1
        return self._verdict(now)

    def _verdict(self, now: float) -> Transition | None:
        """Decide the round of probes as soon as no further probe can change what it comes to."""
        tolerated = self._rule.tolerated(self._probes)
        if self._failures > tolerated:
            self._rounds += 1
            return self.enter(CircuitState.OPEN, now)
        if self._successes >= self._probes - tolerated:
            return self.enter(CircuitState.CLOSED, now)
        return None

    def _open_time(self) -> float:
        if self._rounds == 0:
            return self._recovery_timeout
        # Growth stops at the limit before the power can overflow.
        grown = self._recovery_timeout * _GROWTH ** min(self._rounds, 64)
        return min(grown, self._longest) * (1 + _SPREAD * (2 * self._random() - 1))
