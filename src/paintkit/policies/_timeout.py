"""Timeout: give one call only so much time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from paintkit import _arguments, ambient, clock, observations
from paintkit._locks import new_lock
from paintkit._runtime import Failure, Handover, Outcome, Success
from paintkit._streams import (
    ASYNC_DELEGATION,
    AsyncStream,
    Paced,
    Stream,
    aopen_stream,
    open_stream,
    resume,
)
from paintkit._words import counted
from paintkit._wrap import Colour, Cost, Policy, Templates, colour_of, name_of, never_bare, wrap
from paintkit.errors import CallTimeoutError, DeadlineExceededError, RejectedError

if TYPE_CHECKING:
    from paintkit._expiry import Expiry, Timers
    from paintkit.telemetry import Metric, Source
    from paintkit.typing import P, R, Seconds

__all__ = ["Timeout", "timeout"]

_ASYNCIO = """\
    $due = $begin()
    $expiry = $start($due)
    $token = $set_deadline($due)
    try:
        $result = await $call
    except BaseException as $error:
        if $expiry.over($error):
            raise $expired() from $error
        raise
    else:
        $expiry.over(None)
    finally:
        $reset_deadline($token)
    return $result
"""

_COOPERATIVE = """\
    $token = $set_deadline($begin())
    try:
        $result = $call
    finally:
        $reset_deadline($token)
    return $result
"""

_THREAD = """\
    $result = $in_thread($later).unwrap()
    return $result
"""


class Timeout(Policy):
    """A timeout; made by `timeout`."""

    def __init__(
        self, seconds: float, *, thread: bool, cooperative: bool, max_abandoned: int, name: str
    ) -> None:
        self.name = name
        #: The span, in seconds.
        self.seconds = seconds
        self._blocking = _THREAD if thread else _COOPERATIVE if cooperative else None
        self._templates = Templates(
            name="timeout",
            blocking=self._blocking,
            asyncio=_ASYNCIO,
            generator="    return (yield from $resume($open($later)))\n" if cooperative else None,
            async_generator="    $rest, $item = await $aopen($later)\n" + ASYNC_DELEGATION,
        )
        self._max_abandoned = max_abandoned
        self._abandoned = self._expiries = 0
        self._timers: Timers | None = None
        self._lock = new_lock()  # guards _abandoned and _expiries

    def __call__(self, fn: Callable[P, R], /) -> Callable[P, R]:
        """Return `fn` with this timeout.

        Raises:
            TypeError: `fn` is a plain function and the policy was not told how to stop waiting for one.
        """
        colour = colour_of(fn)
        if colour is Colour.GENERATOR and self._templates.generator is None:
            raise TypeError(
                f"a generator cannot be interrupted: for {name_of(fn)} pass timeout(…, cooperative=True), which gives"
                " paintkit's own waits inside each item so much time"
            )
        if colour is Colour.BLOCKING and self._blocking is None:
            raise TypeError(
                f"a blocking function cannot be interrupted: for {name_of(fn)} pass timeout(…, thread=True) to abandon it"
                " in a worker thread, or cooperative=True to let paintkit's own waits inside end in time"
            )
        return wrap(fn, self._templates, self._helpers())

    @property
    def abandoned(self) -> int:
        """How many worker threads still run a call that nobody waits for."""
        return self._abandoned

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return what it counts, for exporters."""
        from paintkit import _catalogue

        return _catalogue.TIMEOUT.read(self.name, {"expired": self._expiries, "abandoned": self._abandoned})

    def worst_case(self, cost: Cost) -> Cost:
        """Nobody waits longer than this."""
        return Cost(calls=cost.calls, seconds=min(cost.seconds, self.seconds))

    def __repr__(self) -> str:
        return f"<timeout {self.name!r}: {self.seconds:g} s>"

    def _helpers(self) -> Mapping[str, Any]:
        return {
            "clock": clock,
            "begin": self._begin,
            "set_deadline": ambient.deadline.set,
            "reset_deadline": ambient.deadline.reset,
            "start": self._start,
            "expired": self._expired,
            "in_thread": self._in_thread,
            "resume": resume,
            "open": self._open,
            "aopen": self._aopen,
        }

    def _begin(self) -> float:
        """Return the instant at which this call has to be done: an earlier deadline around it counts for it, too."""
        now = clock.now()
        outer = ambient.deadline.get()
        if outer is None:
            return now + self.seconds
        if outer <= now:
            raise DeadlineExceededError(f"the deadline was over before {self.name!r} could start the call")
        return min(outer, now + self.seconds)

    def _open(self, call: Callable[[], Any]) -> Stream:
        """Give every item of a generator as much time as a call."""
        rest, first = self.call(open_stream, call)
        return None if rest is None else Paced(rest, self.call), first

    async def _aopen(self, call: Callable[[], Any]) -> AsyncStream:
        rest, first = await self.acall(aopen_stream, call)
        return None if rest is None else Paced(rest, self.acall), first

    def _start(self, due: float) -> Expiry:
        """Begin the expiry of a call of the current task."""
        if self._timers is None:
            # Late, for it imports asyncio, which blocking programs never need.
            from paintkit._expiry import Timers

            self._timers = Timers(self.seconds)
        return self._timers.start(due - clock.now())

    def _expired(self) -> CallTimeoutError:
        with self._lock:
            self._expiries += 1
        observations.emit("timeout.expired", self.name, seconds=self.seconds)
        return CallTimeoutError(f"{self.name!r}: no result within {self.seconds:g} s")

    def _in_thread(self, call: Callable[[], Any]) -> Outcome[Any]:
        """Run a call in a thread of its own and wait for it; abandon it when time is up."""
        with self._lock:
            if self._abandoned >= self._max_abandoned:
                busy = counted(self._abandoned, "abandoned thread still runs", "abandoned threads still run")
                raise RejectedError(self.name, None, busy)
        due = self._begin()
        work = _Work(call, due)
        work.start()
        try:
            arrived = work.done.wait(due - clock.now()) or not work.done.withdraw()
        except BaseException:
            self._abandon(work)
            raise
        if arrived:
            return work.result()
        self._abandon(work)
        raise self._expired()

    def _abandon(self, work: _Work) -> None:
        with self._lock:
            self._abandoned += 1
        work.when_finished(self._come_back)

    def _come_back(self) -> None:
        with self._lock:
            self._abandoned -= 1


class _Work:
    """One call in a daemon thread, in a copy of the caller's context."""

    def __init__(self, call: Callable[[], Any], due: float) -> None:
        from contextvars import copy_context

        self.done = Handover()
        self._call = call
        self._context = copy_context()
        self._context.run(ambient.deadline.set, due)
        self._outcome: Outcome[Any] | None = None
        self._interrupt: BaseException | None = None
        self._finished: Callable[[], None] | None = None
        self._lock = threading.Lock()  # guards _finished against the thread's end
        self._ended = False

    def start(self) -> None:
        """Run the call."""
        threading.Thread(
            target=self._context.run, args=(self._run,), name="paintkit-timeout", daemon=True
        ).start()

    def result(self) -> Outcome[Any]:
        """Return the outcome; what is not an `Exception` is raised here as it was there."""
        if self._interrupt is not None:
            raise self._interrupt
        if self._outcome is None:
            raise RuntimeError("the call has not ended")
        return self._outcome

    def when_finished(self, callback: Callable[[], None]) -> None:
        """Call back when the thread ends, or now if it has."""
        with self._lock:
            if not self._ended:
                self._finished = callback
                return
        callback()

    def _run(self) -> None:
        try:
            self._outcome = Success(self._call())
        except Exception as error:  # noqa: BLE001 - the outcome is the value
            self._outcome = Failure(error)
        except BaseException as error:  # noqa: BLE001 - raised again where somebody waits
            self._interrupt = error
        with self._lock:
            self._ended = True
        self.done.give()
        if self._finished is not None:
            self._finished()


@never_bare("`seconds`, the time that a call may take", "@timeout(2.0)")
def timeout(
    seconds: Seconds,
    *,
    thread: bool = False,
    cooperative: bool = False,
    max_abandoned: int = 8,
    name: str = "timeout",
) -> Timeout:
    """Return a policy that gives every call only so much time.

    An `async def` function is cancelled when its time is up. A plain function cannot be interrupted, so you choose what
    to do with it. In both cases the ambient deadline inside is the end of the call's time, for everything that reads it.

    Args:
        seconds: How long (> 0), or a `timedelta`; an earlier ambient deadline shortens it.
        thread: Run a plain function in a worker thread, with the caller's context variables, and abandon the thread when
            time is up. It is not killed: it runs on, and what it does still happens.
        cooperative: Only set the ambient deadline for a plain function; a value that comes late is returned.
        max_abandoned: How many abandoned threads there may be (>= 1) before calls are refused.
        name: The label in errors and observations.

    Returns:
        The policy: a decorator for `def` and `async def`, with `.call(fn, ...)` and `.acall(fn, ...)`. Our own expiry is
        a `CallTimeoutError`; the callee's own `TimeoutError` passes unchanged.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or both modes are asked for.

    Example:
        >>> @timeout(10.0, thread=True)
        ... def resolve(host: str) -> str:
        ...     return f"address of {host}"
        >>> resolve("example.org")
        'address of example.org'
    """
    if _arguments.flag("thread", thread) and _arguments.flag("cooperative", cooperative):
        raise ValueError("thread and cooperative exclude each other: pass one")
    return Timeout(
        _arguments.seconds("seconds", seconds),
        thread=thread,
        cooperative=_arguments.flag("cooperative", cooperative),
        max_abandoned=_arguments.count("max_abandoned", max_abandoned),
        name=_arguments.label("name", name),
    )
