"""Chaos that can be repeated: errors, delays and strange results, dealt to the calls of a function by a seed."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from paintkit import _arguments
from paintkit._locks import new_lock
from paintkit._runtime import ASYNCIO, BLOCKING, Failure, Outcome, Runtime, Success, drive
from paintkit._wrap import Policy, Templates

if TYPE_CHECKING:
    from functools import partial

    from paintkit.typing import Seconds

__all__ = ["Blow", "Chaos", "chaos"]

#: Makes an error to be raised.
Fault = type[Exception] | Callable[[], Exception]

_TEMPLATES = Templates(
    name="chaos",
    blocking="    return $strike($later)\n",
    asyncio="    return await $astrike($later)\n",
)


class Blow(NamedTuple):
    """What chaos does to one call.

    Attributes:
        delay: Seconds that the call waits before it begins.
        fault: What makes the error that it raises, or `None`.
        lost: Whether the error comes after the function has done its work, as when an answer is lost.
        outcomes: One result instead of the function's, or none.
    """

    delay: float = 0.0
    fault: Fault | None = None
    lost: bool = False
    outcomes: tuple[Any, ...] = ()


class Chaos(Policy):
    """A chaos; made by `chaos`."""

    _templates = _TEMPLATES

    def __init__(
        self,
        faults: Mapping[Fault, float],
        *,
        outcomes: Sequence[tuple[Any, float]],
        latency: tuple[float, float],
        lost: float,
        seed: int,
    ) -> None:
        self.name = "chaos"
        #: What repeats it: `chaos(..., seed=seed)`.
        self.seed = seed
        self._faults = dict(faults)
        self._outcomes = list(outcomes)
        self._latency = latency
        self._lost = lost
        self._lock = new_lock()  # guards what follows
        self._numbers = count()
        self._blows: list[Blow] = []

    @property
    def blows(self) -> list[Blow]:
        """What was done to the calls so far, in the order in which they began."""
        with self._lock:
            return [*self._blows]

    def plan(self, number: int) -> Blow:
        """Return what happens to the call of that number, the first being 0: by the seed alone, whatever other calls do."""
        rng = Random(f"{self.seed}:{number}")  # noqa: S311 - no secret
        delay = rng.uniform(*self._latency)
        lost = rng.random() < self._lost
        draw = rng.random()
        for fault, share in self._faults.items():
            if draw < share:
                return Blow(delay, fault, lost)
            draw -= share
        for outcome, share in self._outcomes:
            if draw < share:
                return Blow(delay, outcomes=(outcome,))
            draw -= share
        return Blow(delay)

    @contextmanager
    def patch(self, target: object, name: str) -> Iterator[Self]:
        """Strike the calls of an attribute of an object, class or module, inside the block.

        An error that leaves the block bears the seed as a note.

        Args:
            target: What has the attribute.
            name: The attribute, a function or method.
        """
        missing = object()
        own = vars(target).get(name, missing)
        setattr(target, name, self(getattr(target, name)))
        try:
            with self:
                yield self
        finally:
            if own is missing:
                delattr(target, name)
            else:
                setattr(target, name, own)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Let an error that leaves the block tell the seed."""
        if error is not None and self._note() not in getattr(error, "__notes__", ()):
            error.add_note(self._note())

    def __repr__(self) -> str:
        return f"<chaos, seed={self.seed}>"

    def _note(self) -> str:
        return f"this was chaos; chaos(..., seed={self.seed}) repeats it"

    def _helpers(self) -> Mapping[str, Any]:
        return {
            "strike": lambda later: drive(self._strike(later, BLOCKING)).unwrap(),
            "astrike": self._astrike,
        }

    async def _astrike(self, later: partial[Any]) -> Any:
        return (await self._strike(later, ASYNCIO)).unwrap()

    async def _strike(self, later: partial[Any], runtime: Runtime) -> Outcome[Any]:
        with self._lock:
            number = next(self._numbers)
            blow = self.plan(number)
            self._blows.append(blow)
        if blow.delay:
            await runtime.sleep(blow.delay)
        if blow.fault is not None and not blow.lost:
            return self._failure(blow.fault, number)
        if blow.outcomes:
            return Success(blow.outcomes[0])
        outcome = await runtime.attempt(later)
        return outcome if blow.fault is None else self._failure(blow.fault, number)

    def _failure(self, fault: Fault, number: int) -> Failure:
        error = fault(f"call {number} of chaos") if isinstance(fault, type) else fault()
        error.add_note(self._note())
        return Failure(error)


def chaos(
    faults: Mapping[Fault, float] | None = None,
    *,
    outcomes: Sequence[tuple[Any, float]] = (),
    latency: Seconds | tuple[Seconds, Seconds] = 0.0,
    lost: float = 0.0,
    seed: int | None = None,
) -> Chaos:
    """Return what deals errors, delays and strange results to the calls of a function: a decorator, for tests.

    What happens to the n-th call depends on the seed and n alone, so a test that failed can be repeated. The seed is in the
    `repr`, in a note of every error that it raises, and in a note of whatever leaves a `with` block of it.

    It has the form of a policy: `@chaos(...)` on `def` and `async def`, `.call(fn, ...)`, the innermost of a `pipeline`. As a
    context manager, `with chaos(...).patch(module, "function"):` strikes what others call.

    Args:
        faults: Errors by their share of the calls (0 to 1), all shares together at most 1. An error is an exception class,
            which gets a message, or a function without arguments that returns an exception.
        outcomes: Results that replace the function's, with their shares; the function is not called.
        latency: How long every call waits first, in seconds or as a timedelta, on paintkit's clock; or the shortest and the
            longest wait.
        lost: The share of errors that come after the function has done its work, as when only its answer is lost.
        seed: What to repeat; drawn anew if it is `None`.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range, or the shares are more than 1 together.

    Example:
        >>> from paintkit import backoff, retry
        >>> storm = chaos({ConnectionError: 0.5}, seed=1)
        >>> @retry(on=ConnectionError, attempts=20, backoff=backoff.constant(0))
        ... @storm
        ... def fetch():
        ...     return "page"
        >>> {fetch() for _ in range(100)}
        {'page'}
        >>> len(storm.blows) > 150
        True
    """
    given = _shares_of_faults(faults)
    results = [_pair(index, one) for index, one in enumerate(outcomes)]
    shares = [
        _arguments.ratio(f"faults[{_checked(one)!r}]", share, zero=True) for one, share in given.items()
    ]
    shares += [_arguments.ratio(f"outcomes[{index}]", one[1], zero=True) for index, one in enumerate(results)]
    if sum(shares) > 1 + 1e-9:
        raise ValueError(f"faults and outcomes must have shares of at most 1 together, not {sum(shares):g}")
    return Chaos(
        given,
        outcomes=results,
        latency=_span(latency),
        lost=_arguments.ratio("lost", lost, zero=True),
        seed=secrets.randbits(32) if seed is None else _arguments.count("seed", seed, least=0),
    )


def _checked(fault: Fault) -> Fault:
    if isinstance(fault, type) and issubclass(fault, Exception):
        return fault
    if isinstance(fault, type | BaseException) or not callable(fault):
        raise TypeError(
            f"faults must have exception classes, or functions that return an exception, as keys, not {fault!r}"
        )
    return fault


def _span(latency: Seconds | tuple[Seconds, Seconds]) -> tuple[float, float]:
    shortest, longest = latency if isinstance(latency, tuple) else (latency, latency)
    least = _arguments.seconds("latency", shortest, zero=True)
    most = _arguments.seconds("latency", longest, zero=True)
    if most < least:
        raise ValueError(f"latency must be (shortest, longest), not {latency!r}")
    return least, most


def _shares_of_faults(faults: Mapping[Fault, float] | None) -> dict[Fault, float]:
    if faults is not None and not isinstance(faults, Mapping):
        raise TypeError(
            f"faults must be errors with their shares, such as {{ConnectionError: 0.1}}, not {faults!r}"
        )
    return dict(faults or {})


def _pair(index: int, outcome: Any) -> tuple[Any, float]:
    if not isinstance(outcome, tuple) or len(outcome) != 2:
        raise TypeError(
            f"outcomes[{index}] must be a result with its share, such as (None, 0.1), not {outcome!r}"
        )
    return outcome
