"""Bulkhead: let only so many calls run at once, so that one slow dependency cannot take everything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from paintkit import _arguments, ambient, observations
from paintkit._locks import new_lock
from paintkit._runtime import ASYNCIO, BLOCKING, Handover, Runtime, drive
from paintkit._streams import aopen_stream, async_generator_within, generator_within
from paintkit._words import counted
from paintkit._wrap import Cost, Policy, Templates, never_bare, remembered
from paintkit.errors import BulkheadFullError, DeadlineExceededError
from paintkit.machines.permits import Permits

if TYPE_CHECKING:
    from paintkit.telemetry import Metric, Source
    from paintkit.typing import Seconds

__all__ = ["Bulkhead", "BulkheadMetrics", "Hold", "bulkhead"]

# The happy path: one permit off the list and one back, without a lock. `$taken` tells the exit what there is to return.
_BODY = """\
    if $waiting or not $free:
        $taken = {acquire}()
    else:
        try:
            $free.pop()
            $taken = True
        except IndexError:
            $taken = {acquire}()
    try:
        $result = {call}
    finally:
        if $taken:
            $free.append(None)
            if $waiting:
                $hand_on()
    return $result
"""

_TEMPLATES = Templates(
    name="bulkhead",
    blocking=_BODY.format(acquire="$acquire", call="$call"),
    asyncio=_BODY.format(acquire="await $aacquire", call="await $call"),
    generator=generator_within("with $hold():"),
    async_generator=async_generator_within("async with $hold():"),
)


class BulkheadMetrics(NamedTuple):
    """What a bulkhead knows about itself at one moment.

    Attributes:
        limit: How many calls may run at once.
        running: How many do.
        waiting: How many wait for a permit.
        rejected: Calls refused in all, or in shadow mode: that would have been.
    """

    limit: int
    running: int
    waiting: int
    rejected: int


class Bulkhead(Policy):
    """A bulkhead; made by `bulkhead`."""

    _templates = _TEMPLATES
    _adjustable = frozenset({"limit", "max_queue", "max_wait"})

    def __init__(
        self, limit: int, *, max_wait: float, max_queue: int | None, name: str, shadow: bool
    ) -> None:
        self.name = name
        self._max_wait = max_wait
        self._shadow = shadow
        self._permits: Permits[Handover] = Permits(limit, max_queue)
        self._lock = new_lock()  # guards the queue and _rejected
        self._rejected = 0

    def metrics(self) -> BulkheadMetrics:
        """Return the numbers of this moment."""
        permits = self._permits
        return BulkheadMetrics(permits.limit, permits.in_use, len(permits.waiting), self._rejected)

    def hold(self) -> Hold:
        """Return a context manager that holds a permit for one block, for `with` and `async with`.

        Example:
            >>> printers = bulkhead(2)
            >>> with printers.hold():
            ...     printers.metrics().running
            1
        """
        return Hold(self)

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return what it counts, for exporters."""
        from paintkit import _catalogue

        return _catalogue.BULKHEAD.read(self.name, self.metrics()._asdict())

    def worst_case(self, cost: Cost) -> Cost:
        """The wait for a permit comes on top."""
        return Cost(calls=cost.calls, seconds=cost.seconds + self._max_wait)

    def __repr__(self) -> str:
        return f"<bulkhead {self.name!r}: {self._permits.in_use} of {self._permits.limit}>"

    def _take_over(self, fresh: Bulkhead) -> None:
        self._max_wait = fresh._max_wait
        with self._lock:
            surplus = self._permits.take_over(fresh._permits)
        for _ in range(surplus):
            self._withdraw_one()
        self._hand_on()

    def _withdraw_one(self) -> None:
        """Take one permit out of circulation: a free one, or the next that comes back."""
        with self._lock:
            self._permits.waiting.appendleft(Handover())  # nobody waits there, so what it gets is gone
        self._hand_on()

    def _helpers(self) -> Mapping[str, Any]:
        return {
            "free": self._permits.free,
            "waiting": self._permits.waiting,
            "acquire": self._acquire,
            "aacquire": self._aacquire,
            "hand_on": self._hand_on,
            "hold": self.hold,
            "aopen": aopen_stream,
        }

    def _acquire(self) -> bool:
        return drive(self._queue(BLOCKING))

    async def _aacquire(self) -> bool:
        return await self._queue(ASYNCIO)

    async def _queue(self, runtime: Runtime) -> bool:
        """Wait for a permit; False where a shadow lets a call pass without one.

        Raises:
            BulkheadFullError: There was none in time.
            DeadlineExceededError: The ambient deadline came first.
        """
        place = Handover()
        if not self._join(place):
            return self._take() or self._refuse(self._full())
        left = ambient.remaining()
        patience = self._max_wait if left is None else min(self._max_wait, left)
        try:
            received = await runtime.receive(place, patience)
        except BaseException:
            self._leave(place)
            raise
        if received or not self._withdraw(place):
            return True
        if patience < self._max_wait:
            return self._refuse(
                DeadlineExceededError(f"{self.name!r} had no permit free before the deadline")
            )
        return self._refuse(self._full())

    def _join(self, place: Handover) -> bool:
        """Join the queue if there is one, and pass on what became free meanwhile: to us, if nobody is before us."""
        if self._max_wait <= 0:
            return False
        with self._lock:
            joined = self._permits.enqueue(place)
        self._hand_on()
        return joined

    def _take(self) -> bool:
        """Take a permit that is free right now, unless somebody waits for it."""
        try:
            return not self._permits.waiting and self._permits.free.pop() is None
        except IndexError:
            return False

    def _withdraw(self, place: Handover) -> bool:
        """Leave the queue; False when a permit came after all."""
        with self._lock:
            self._permits.leave(place)
        return place.withdraw()

    def _leave(self, place: Handover) -> None:
        """Leave the queue and pass on a permit that came too late."""
        if not self._withdraw(place):
            self._release()

    def _release(self) -> None:
        self._permits.free.append(None)
        if self._permits.waiting:
            self._hand_on()

    def _hand_on(self) -> None:
        """Give free permits to those who wait, in their order."""
        while True:
            with self._lock:
                place = self._permits.hand_over()
            if place is None:
                return
            if not place.give():
                self._permits.free.append(None)

    def _full(self) -> BulkheadFullError:
        return BulkheadFullError(self.name, None, counted(self._permits.limit, "call runs", "calls run"))

    def _refuse(self, error: Exception) -> bool:
        with self._lock:
            self._rejected += 1
        kind = "bulkhead.would_reject" if self._shadow else "bulkhead.rejected"
        observations.emit(kind, self.name, limit=self._permits.limit)
        if self._shadow:
            return False
        raise error


class Hold:
    """Holds a permit for one block; made by `Bulkhead.hold`.

    Raises:
        BulkheadFullError: On entry, if no permit is free in time.
        RuntimeError: On a second entry; every use needs a new one.
    """

    __slots__ = ("_bulkhead", "_entered", "_taken")

    def __init__(self, bulkhead: Bulkhead) -> None:
        self._bulkhead = bulkhead
        self._entered = False
        self._taken = False

    def __enter__(self) -> Self:
        self._begin()
        self._taken = self._bulkhead._acquire()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        if self._taken:
            self._bulkhead._release()

    async def __aenter__(self) -> Self:
        self._begin()
        self._taken = await self._bulkhead._aacquire()
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        self.__exit__()

    def _begin(self) -> None:
        if self._entered:
            raise RuntimeError("a hold is for one block: call `.hold()` again for the next")
        self._entered = True


@never_bare("`limit`, the calls that may run at once", "@bulkhead(8)")
@remembered
def bulkhead(
    limit: int,
    *,
    max_wait: Seconds = 0,
    max_queue: int | None = None,
    name: str = "bulkhead",
    shadow: bool = False,
) -> Bulkhead:
    """Return a policy that lets at most `limit` calls run at once, threads and tasks counted together.

    Args:
        limit: How many calls may run at once (>= 1).
        max_wait: Seconds (>= 0) or a `timedelta` that a call may wait for a permit, in its turn; never longer than the
            ambient deadline. By default it is refused at once.
        max_queue: How many calls may wait (>= 0); `None`: only `max_wait` bounds the queue.
        name: The label in errors, observations and statistics.
        shadow: Only report what would be refused (observation `bulkhead.would_reject`); every call passes, after the
            wait that it would have had.

    Returns:
        The policy: a decorator for `def` and `async def`, with `.hold()` for blocks, `.call(fn, ...)`, `.acall(fn, ...)`
        and `.metrics()`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Example:
        >>> @bulkhead(8, max_wait=0.5)
        ... def render(page: int) -> str:
        ...     return f"page {page}"
        >>> render(1)
        'page 1'
    """
    return Bulkhead(
        _arguments.count("limit", limit, most=1_000_000),
        max_wait=_arguments.seconds("max_wait", max_wait, zero=True),
        max_queue=None if max_queue is None else _arguments.count("max_queue", max_queue, least=0),
        name=_arguments.label("name", name),
        shadow=_arguments.flag("shadow", shadow),
    )
