"""Schedules of delays between attempts: how long to wait before each retry.

A schedule is immutable and can be shared by any number of policies; every call draws its own iterator from `delays()`.
With n = 1 for the first retry, the ceilings are

- constant: `c_n = delay`
- linear: `c_n = min(cap, start + step * (n - 1))`
- exponential: `c_n = min(cap, base * factor ** (n - 1))`
- fibonacci: `c_n = min(cap, base * F_n)` with F = 1, 2, 3, 5, 8, …
- decorrelated: `c_n = min(cap, 3 * s_(n-1))`, drawn between `base` and the ceiling, where `s` is the delay before

kept as a running value, so that nothing overflows at any attempt. Jitter spreads clients that failed together; it is
applied after the cap, where it must not vanish:

- `"full"`: `U(0, c_n)`, least work for the server (the default of `exponential`)
- `"equal"`: `c_n / 2 + U(0, c_n / 2)`, never less than half
- `"additive"`: `c_n + U(0, c_1)`, never less than the ceiling; may exceed the cap by up to `c_1`
- `"none"`: exactly `c_n`

No delay is ever longer than `LONGEST_DELAY`. The formulas for full and equal jitter are those of the AWS Architecture
Blog, "Exponential Backoff And Jitter", as is decorrelated jitter, which we draw below the cap instead of cutting it off
there, so that it does not vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, cast, get_args

from paintkit import _arguments

if TYPE_CHECKING:
    from random import Random

    from paintkit.typing import Seconds

__all__ = [
    "LONGEST_DELAY",
    "Backoff",
    "Decorrelated",
    "Fibonacci",
    "Jitter",
    "Schedule",
    "constant",
    "decorrelated",
    "exponential",
    "fibonacci",
    "linear",
    "longest",
]

#: Seconds; the longest delay of any schedule: one day.
LONGEST_DELAY = 86_400.0

#: How a delay is drawn below, around or above its ceiling.
Jitter = Literal["full", "equal", "additive", "none"]


class Schedule(Protocol):
    """What a policy needs of a schedule; bring your own if you like."""

    def delays(self) -> Iterator[float]:
        """Return a fresh iterator of delays in seconds; when it ends, its last delay goes on."""
        ...


class Backoff(NamedTuple):
    """A schedule made by `constant`, `linear` or `exponential`.

    Attributes:
        start: The first ceiling, in seconds.
        factor: What the ceiling is multiplied by after each delay (1.0: not at all).
        step: What is added to the ceiling after each delay, in seconds.
        cap: The highest ceiling, in seconds.
        jitter: How the delay is drawn from the ceiling.
        rng: The source of randomness, or `None` for one that all schedules share.
    """

    start: float
    factor: float
    step: float
    cap: float
    jitter: Jitter
    rng: Random | None

    def delays(self) -> Iterator[float]:
        """Yield the delays in seconds, for ever.

        Example:
            >>> from itertools import islice
            >>> list(islice(exponential(0.5, cap=3.0, jitter="none").delays(), 4))
            [0.5, 1.0, 2.0, 3.0]
        """
        draw = _DRAWS[self.jitter]
        ceiling = self.start
        while True:
            yield min(draw(self, ceiling), LONGEST_DELAY)
            ceiling = min(self.cap, ceiling * self.factor + self.step)


class Fibonacci(NamedTuple):
    """A schedule made by `fibonacci`; see `Backoff` for the attributes."""

    start: float
    cap: float
    jitter: Jitter
    rng: Random | None

    def delays(self) -> Iterator[float]:
        """Yield the delays in seconds, for ever."""
        draw = _DRAWS[self.jitter]
        ceiling, following = self.start, 2 * self.start
        while True:
            yield min(draw(self, ceiling), LONGEST_DELAY)
            ceiling, following = min(self.cap, following), min(self.cap, ceiling + following)


class Decorrelated(NamedTuple):
    """A schedule made by `decorrelated`; see `Backoff` for the attributes."""

    start: float
    cap: float
    rng: Random | None

    def delays(self) -> Iterator[float]:
        """Yield the delays in seconds, for ever."""
        delay = self.start
        while True:
            ceiling = max(self.start, min(self.cap, 3 * delay))
            delay = self.start + (ceiling - self.start) * _random(self.rng)
            yield delay


class _Drawn(Protocol):
    """What a jitter needs of a schedule."""

    @property
    def start(self) -> float: ...

    @property
    def rng(self) -> Random | None: ...


def _random(rng: Random | None) -> float:
    return (rng or shared_rng()).random()


_DRAWS: dict[str, Callable[[_Drawn, float], float]] = {
    "full": lambda schedule, ceiling: ceiling * _random(schedule.rng),
    "equal": lambda schedule, ceiling: ceiling / 2 + ceiling / 2 * _random(schedule.rng),
    "additive": lambda schedule, ceiling: ceiling + schedule.start * _random(schedule.rng),
    "none": lambda _schedule, ceiling: ceiling,
}


def constant(delay: Seconds, *, jitter: Jitter = "none", rng: Random | None = None) -> Backoff:
    """Wait the same time before every retry.

    Args:
        delay: Seconds (>= 0, at most a day) or a `timedelta`.
        jitter: See the module's documentation.
        rng: A `random.Random`, seeded for delays that can be repeated.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Example:
        >>> next(constant(0.2).delays())
        0.2
    """
    seconds = _arguments.seconds("delay", delay, zero=True, most=LONGEST_DELAY)
    return Backoff(seconds, 1.0, 0.0, seconds, _jitter(jitter), _rng(rng))


def linear(
    start: Seconds,
    *,
    step: Seconds | None = None,
    cap: Seconds = 10.0,
    jitter: Jitter = "none",
    rng: Random | None = None,
) -> Backoff:
    """Wait longer by the same step before every retry.

    Args:
        start: The first delay, in seconds (> 0) or a `timedelta`.
        step: What every further delay is longer by, in seconds (>= 0); the same as `start` by default.
        cap: The longest delay before jitter, in seconds (>= `start`, at most a day).
        jitter: See the module's documentation.
        rng: A `random.Random`, seeded for delays that can be repeated.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Example:
        >>> from itertools import islice
        >>> list(islice(linear(1.0, cap=2.5).delays(), 4))
        [1.0, 2.0, 2.5, 2.5]
    """
    first, limit = _first_and_cap("start", start, cap)
    growth = first if step is None else _arguments.seconds("step", step, zero=True, most=LONGEST_DELAY)
    return Backoff(first, 1.0, growth, limit, _jitter(jitter), _rng(rng))


def exponential(
    base: Seconds,
    *,
    cap: Seconds = 10.0,
    factor: float = 2.0,
    jitter: Jitter = "full",
    rng: Random | None = None,
) -> Backoff:
    """Wait longer by the same factor before every retry.

    Args:
        base: The first ceiling, in seconds (> 0) or a `timedelta`.
        cap: The highest ceiling, in seconds (>= `base`, at most a day).
        factor: The growth from one ceiling to the next (>= 1).
        jitter: See the module's documentation.
        rng: A `random.Random`, seeded for delays that can be repeated.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Example:
        >>> from random import Random
        >>> schedule = exponential(0.1, cap=10.0, rng=Random(7))
        >>> 0 <= next(schedule.delays()) <= 0.1
        True
    """
    first, limit = _first_and_cap("base", base, cap)
    growth = _arguments.number("factor", factor, least=1.0, most=1e6)
    return Backoff(first, growth, 0.0, limit, _jitter(jitter), _rng(rng))


def fibonacci(
    base: Seconds, *, cap: Seconds = 10.0, jitter: Jitter = "full", rng: Random | None = None
) -> Fibonacci:
    """Wait longer by the Fibonacci numbers before every retry: slower growth than doubling.

    Args:
        base: The first ceiling, in seconds (> 0) or a `timedelta`.
        cap: The highest ceiling, in seconds (>= `base`, at most a day).
        jitter: See the module's documentation.
        rng: A `random.Random`, seeded for delays that can be repeated.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Example:
        >>> from itertools import islice
        >>> list(islice(fibonacci(1.0, cap=6.0, jitter="none").delays(), 5))
        [1.0, 2.0, 3.0, 5.0, 6.0]
    """
    first, limit = _first_and_cap("base", base, cap)
    return Fibonacci(first, limit, _jitter(jitter), _rng(rng))


def decorrelated(base: Seconds, *, cap: Seconds = 10.0, rng: Random | None = None) -> Decorrelated:
    """Wait a random time between `base` and three times the delay before: spread without a common rhythm.

    Args:
        base: The shortest delay, in seconds (> 0) or a `timedelta`.
        cap: The longest delay, in seconds (>= `base`, at most a day).
        rng: A `random.Random`, seeded for delays that can be repeated.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Example:
        >>> delay = next(decorrelated(0.1, cap=10.0).delays())
        >>> 0.1 <= delay <= 0.3
        True
    """
    first, limit = _first_and_cap("base", base, cap)
    return Decorrelated(first, limit, _rng(rng))


def longest(schedule: Schedule) -> Schedule:
    """Return the schedule with every delay as long as its jitter allows; a schedule of your own as it is."""
    replace = getattr(schedule, "_replace", None)
    return replace(rng=_Longest()) if callable(replace) and hasattr(schedule, "rng") else schedule


class _Longest:
    """Randomness at its upper end."""

    def random(self) -> float:
        return 1.0


def _first_and_cap(name: str, first: Seconds, cap: Seconds) -> tuple[float, float]:
    start = _arguments.seconds(name, first, most=LONGEST_DELAY)
    limit = _arguments.seconds("cap", cap, most=LONGEST_DELAY)
    if limit < start:
        raise ValueError(f"cap must be at least {name} ({start:g} s), not {limit:g} s")
    return start, limit


def _jitter(value: Jitter) -> Jitter:
    return cast("Jitter", _arguments.choice("jitter", value, get_args(Jitter)))


def _rng(value: Random | None) -> Random | None:
    if value is not None and not callable(getattr(value, "random", None)):
        raise TypeError(f"rng must be a random.Random, not {value!r}")
    return value


_rng_of_all: Random | None = None


def shared_rng() -> Random:
    """Return one generator for all schedules; a forked child gets its own seed, or parent and child wait in step."""
    global _rng_of_all
    if _rng_of_all is None:
        import os
        from random import Random

        _rng_of_all = rng = Random()  # noqa: S311 - spreads load, guards no secret
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=rng.seed)
    return _rng_of_all
