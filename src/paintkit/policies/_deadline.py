"""Deadline: one moment by which everything inside has to be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Self

from paintkit import _arguments, ambient, clock, observations
from paintkit._locks import new_lock
from paintkit._wrap import Cost, Policy, Templates, never_bare
from paintkit.errors import DeadlineExceededError

if TYPE_CHECKING:
    from paintkit._expiry import Expiry, Timers
    from paintkit.telemetry import Metric, Source
    from paintkit.typing import Seconds

__all__ = ["Deadline", "deadline"]

_TEMPLATES = Templates(
    name="deadline",
    blocking="""\
    with $self:
        $check()
        $result = $call
    return $result
""",
    asyncio="""\
    async with $self:
        $result = await $call
    return $result
""",
)


class _Entry:
    """One use of a deadline: what was there before, and the timer of an asynchronous use."""

    __slots__ = ("expiry", "previous", "token")

    def __init__(self, token: Token[float | None], previous: _Entry | None) -> None:
        self.token = token
        self.previous = previous
        self.expiry: Expiry | None = None


#: The uses that are open around us, innermost first. They belong to the context, so a deadline object belongs to all.
_entered: ContextVar[_Entry | None] = ContextVar("paintkit.entered_deadlines", default=None)


class Deadline(Policy):
    """A span of time to do everything in; made by `deadline`."""

    _templates = _TEMPLATES

    def __init__(self, seconds: float) -> None:
        self.name = "deadline"
        #: The span, in seconds.
        self.seconds = seconds
        self._timers: Timers | None = None
        self._missed = 0
        self._lock = new_lock()  # guards _missed

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._close()

    async def __aenter__(self) -> Self:
        if self._timers is None:
            # Late, for it imports asyncio, which blocking programs never need.
            from paintkit._expiry import Timers

            self._timers = Timers(self.seconds)
        entry = self._open()
        try:
            self._check()
            entry.expiry = self._timers.start(ambient.remaining() or 0.0)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        expiry = self._close().expiry
        if expiry is not None and expiry.over(error):
            raise self._exceeded(f"not done within {self.seconds:g} s") from error

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return what it counts, for exporters."""
        from paintkit import _catalogue

        return _catalogue.DEADLINE.read(self.name, {"exceeded": self._missed})

    def worst_case(self, cost: Cost) -> Cost:
        """Nobody waits longer than this."""
        return Cost(calls=cost.calls, seconds=min(cost.seconds, self.seconds))

    def __repr__(self) -> str:
        return f"<deadline {self.seconds:g} s>"

    def _helpers(self) -> Mapping[str, Any]:
        return {"self": self, "check": self._check}

    def _open(self) -> _Entry:
        """Make this the ambient deadline, unless one that comes earlier is around us."""
        due = clock.now() + self.seconds
        outer = ambient.deadline.get()
        token = ambient.deadline.set(due if outer is None or due < outer else outer)
        entry = _Entry(token, _entered.get())
        _entered.set(entry)
        return entry

    def _close(self) -> _Entry:
        entry = _entered.get()
        if entry is None:
            raise RuntimeError("a deadline was left in another context than the one that it was entered in")
        _entered.set(entry.previous)
        ambient.deadline.reset(entry.token)
        return entry

    def _check(self) -> None:
        left = ambient.remaining()
        if left is not None and left <= 0:
            raise self._exceeded(f"the deadline was over {-left:.3g} s before the call")

    def _exceeded(self, how: str) -> DeadlineExceededError:
        with self._lock:
            self._missed += 1
        observations.emit("deadline.exceeded", self.name, seconds=self.seconds)
        return DeadlineExceededError(how)


@never_bare("`seconds`, the time for everything inside", "@deadline(2.0)")
def deadline(seconds: Seconds) -> Deadline:
    """Return a deadline: everything inside sees the same remaining time.

    Attempts, back-off sleeps, queues, pool checkouts and waits for loaders inside end with it. `with deadline(s)` never
    interrupts your own code: it raises where paintkit would start an attempt or a wait. `async with` and `async def`
    functions are also cancelled when time is up. Of nested deadlines the earliest counts.

    Args:
        seconds: How long (> 0), or a `timedelta`; the span begins anew at every use.

    Returns:
        The deadline: a context manager for `with` and `async with`, and a decorator for `def` and `async def`. It can
        be used again, and by many threads and tasks at once.

    Raises:
        TypeError: `seconds` has the wrong type.
        ValueError: `seconds` is out of range.

    Example:
        >>> from paintkit import remaining
        >>> with deadline(5.0):
        ...     4.0 < remaining() <= 5.0
        True
    """
    return Deadline(_arguments.seconds("seconds", seconds))
