"""Measures named pieces of work: how often they ran, how long they took, how many failed."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypedDict, TypeVar, overload

from paintkit import _arguments, _catalogue, _wrap, clock
from paintkit._locks import new_lock
from paintkit._words import counted
from paintkit.histogram import Histogram, Metrics
from paintkit.monitor import exposition
from paintkit.monitor.gathering import OTHER, gather
from paintkit.observations import Subscription

if TYPE_CHECKING:
    from paintkit.telemetry import HistogramSnapshot, Metric
    from paintkit.typing import P, R

__all__ = ["OTHER", "Measured", "Measurement", "MonitorSnapshot", "PerformanceMonitor"]

T = TypeVar("T")

_ABSENT: Final[Any] = object()


class Measured(NamedTuple):
    """One run of something that is measured.

    Attributes:
        name: Under which name.
        seconds: How long it took.
        error: What it raised, or `None`.
    """

    name: str
    seconds: float
    error: BaseException | None


class MonitorSnapshot(TypedDict):
    """All that a monitor has recorded, as plain data, ready for JSON."""

    version: int
    histograms: dict[str, HistogramSnapshot]


class PerformanceMonitor:
    """Records durations and errors by name; the result and the errors of what is measured pass through unchanged.

    Anything that ends a run with an exception counts as an error, `KeyboardInterrupt` and cancellation included. Names
    are bounded: whatever comes after the first `max_names` is recorded together, as `"__other__"`.

    Args:
        max_names: How many names are told apart, at least 1 (default 1000).

    Raises:
        TypeError: `max_names` is no whole number.
        ValueError: `max_names` is less than 1.

    Example:
        >>> monitor = PerformanceMonitor()
        >>> monitor.measure("database_query", lambda: 6 * 7)
        42
        >>> @monitor.measure("mix")
        ... def mix(red, blue):
        ...     return red + blue
        >>> mix(1, blue=2)
        3
        >>> with monitor.measure("mix"):
        ...     pass
        >>> [(name, metrics["count"]) for name, metrics in monitor.get_metrics().items()]
        [('database_query', 1), ('mix', 2)]
    """

    def __init__(self, *, max_names: int = 1000) -> None:
        self._max_names = _arguments.count("max_names", max_names)
        self._changing = new_lock()  # guards the two below; both are read without it
        self._histograms: dict[str, Histogram] = {}
        self._observers: tuple[Callable[[Measured], object], ...] = ()

    @overload
    def measure(self, name: str) -> Measurement: ...

    @overload
    def measure(self, name: str, fn: Callable[[], T]) -> T: ...

    def measure(self, name: str, fn: Callable[[], Any] = _ABSENT) -> Any:
        """Call `fn()` and record it; without `fn`, return what decorates a function or guards a `with` block.

        Args:
            name: What to record it under.
            fn: Called without arguments. If it is `async def`, the coroutine that comes back records its whole run.

        Returns:
            What `fn` returned, or a `Measurement`.

        Raises:
            TypeError: An argument is of the wrong kind.
            ValueError: `name` is empty.
        """
        if fn is _ABSENT:
            return Measurement(_arguments.label("name", name), self._finish)
        if type(name) is not str or not name.strip():  # before `fn` runs and its result could be lost
            _arguments.label("name", name)
        began = clock.now()
        try:
            result = fn()
        except BaseException as error:
            given: object = fn  # anything, in truth
            if not callable(given):  # nothing has run; asked here, where it costs the others nothing
                raise TypeError(f"fn must be callable, not {given!r} ({type(given).__name__})") from None
            self._finish(name, began, error)
            raise
        if type(result) is CoroutineType:
            return _measured(Measurement(name, self._finish), result)
        self._finish(name, began, None)
        return result

    def record(self, name: str, seconds: float, error: BaseException | None = None) -> None:
        """Record one run that was measured elsewhere.

        Args:
            name: What to record it under.
            seconds: How long it took, from 0 to 10^12.
            error: What it ended with, if it failed.

        Raises:
            TypeError: `name` is no string, or `seconds` no number.
            ValueError: `name` is empty, or `seconds` is out of range.
        """
        try:
            histogram = self._histograms[name]
        except (KeyError, TypeError):
            histogram = self._histogram(name)
        histogram.record(seconds, error)
        if self._observers:
            self._tell(Measured(name, seconds, error))

    def observe(self, observer: Callable[[Measured], object]) -> Subscription:
        """Call `observer` after each run; one that raises an `Exception` is logged and spoils nothing.

        Args:
            observer: A plain function, called in the thread that recorded; it should be quick.

        Returns:
            The registration: `.cancel()` it, or use it as a context manager.
        """
        entry = _Entry(_arguments.callback("observer", observer))
        with self._changing:
            self._observers = (*self._observers, entry)
        return Subscription(lambda: self._forget(entry))

    def get_metrics(self) -> dict[str, Metrics]:
        """Return what is known under each name, as plain data that any JSON writer accepts."""
        return {name: histogram.metrics() for name, histogram in self._all().items()}

    def snapshot(self) -> MonitorSnapshot:
        """Return everything recorded, to be kept or sent, and merged into another monitor."""
        return {"version": 1, "histograms": {name: one.snapshot() for name, one in self._all().items()}}

    def merge(self, snapshot: Mapping[str, Any]) -> None:
        """Add what another monitor has recorded, in another process say: quantiles stay as exact as they were.

        Args:
            snapshot: What `snapshot()` returned there, also after a journey as JSON.

        Raises:
            ValueError: It is no snapshot of a monitor; nothing of it was added.
        """
        parts: dict[str, Histogram] = {}
        for name, part in _histograms_in(snapshot).items():
            parts[name] = Histogram()
            parts[name].merge(part)
        for name, histogram in parts.items():
            self._histogram(name).merge(histogram.snapshot())

    def telemetry(self) -> Iterator[Metric]:
        """Return everything recorded, for exporters; see `paintkit.telemetry`."""
        for name, one in self._all().items():
            snapshot = one.snapshot()
            yield from _catalogue.MONITOR.read(name, {"durations": snapshot, "errors": snapshot["errors"]})

    def as_text(self) -> str:
        """Return everything recorded in the text format that Prometheus reads."""
        return exposition.render(gather([self]))

    def _finish(self, name: str, began: float, error: BaseException | None) -> None:
        # A clock that was exchanged meanwhile (a test began or ended) must not break the call.
        self.record(name, max(0.0, clock.now() - began), error)

    def __repr__(self) -> str:
        return f"<PerformanceMonitor: {len(self._histograms)} of {counted(self._max_names, 'name')}>"

    def _all(self) -> dict[str, Histogram]:
        with self._changing:
            return dict(self._histograms)

    def _histogram(self, name: str) -> Histogram:
        _arguments.label("name", name)
        with self._changing:
            if name not in self._histograms and len(self._histograms) >= self._max_names:
                name = OTHER
            return self._histograms.setdefault(name, Histogram())

    def _tell(self, measured: Measured) -> None:
        for observer in self._observers:
            try:
                observer(measured)
            except Exception:
                import logging

                logging.getLogger("paintkit.monitor").exception("observer %r failed", observer)

    def _forget(self, entry: _Entry) -> None:
        with self._changing:
            self._observers = tuple(one for one in self._observers if one is not entry)


class Measurement:
    """Decorates functions, `def` and `async def`, to be measured, or measures one `with` block."""

    __slots__ = ("_began", "_finish", "_name")

    def __init__(self, name: str, finish: Callable[[str, float, BaseException | None], None]) -> None:
        self._name = name
        self._finish = finish
        self._began: float | None = None

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Return `fn` with the same signature, measured from call to return.

        Raises:
            TypeError: `fn` is a generator function or no function at all.
        """
        helpers = {"finish": self._finish, "name": self._name, "clock": clock, "BaseException": BaseException}
        return _wrap.wrap(fn, _TEMPLATES, helpers)

    def __enter__(self) -> Self:
        if self._began is not None:
            raise RuntimeError(
                "this measurement runs already; call monitor.measure(name) anew for every block"
            )
        self._began = clock.now()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        began, self._began = self._began, None
        if began is not None:
            self._finish(self._name, began, error)


_TEMPLATE = """\
    $began = $clock.now()
    try:
        $result = {call}
    except $BaseException as $error:
        $finish($name, $began, $error)
        raise
    $finish($name, $began, None)
    return $result
"""
_TEMPLATES = _wrap.Templates(
    name="measure",
    blocking=_TEMPLATE.format(call="$call"),
    asyncio=_TEMPLATE.format(call="await $call"),
)


class _Entry:
    """One registration; its identity tells apart two registrations of the same function."""

    __slots__ = ("_observer",)

    def __init__(self, observer: Callable[[Measured], object]) -> None:
        self._observer = observer

    def __call__(self, measured: Measured) -> object:
        return self._observer(measured)

    def __repr__(self) -> str:
        return repr(self._observer)


async def _measured(measurement: Measurement, running: Coroutine[Any, Any, T]) -> T:
    with measurement:
        return await running


def _histograms_in(snapshot: object) -> Mapping[str, HistogramSnapshot]:
    if not isinstance(snapshot, Mapping) or snapshot.get("version") != 1:
        raise ValueError("not a snapshot of a PerformanceMonitor, or one of another version")
    parts = snapshot.get("histograms")
    if not isinstance(parts, Mapping) or not all(isinstance(name, str) and name.strip() for name in parts):
        raise ValueError("not a snapshot of a PerformanceMonitor: it holds no histograms by name")
    return parts
