"""Circuit breaker: stop calling what is known to fail, and find out gently when it works again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from paintkit import _arguments, ambient, backoff, clock, observations
from paintkit._locks import new_lock
from paintkit._record import Record
from paintkit._runtime import ASYNCIO, BLOCKING, Failure, Outcome, Runtime, drive
from paintkit._streams import aopen_stream, async_generator_within, generator_within
from paintkit._wrap import Policy, Templates, never_bare, remembered
from paintkit.errors import CircuitOpenError, RejectedError
from paintkit.machines.breaker import (
    Breaker,
    CircuitState,
    Either,
    Permit,
    Rate,
    Streak,
    Transition,
    TripRule,
)
from paintkit.machines.window import Counts, CountWindow, TimeWindow, Window

if TYPE_CHECKING:
    from paintkit.telemetry import Metric, Source
    from paintkit.typing import ErrorMatch, Predicate, Seconds

__all__ = ["CircuitBreaker", "CircuitMetrics", "Guard", "SharedCircuits", "circuit_breaker"]

# The happy path: one flag test and one outcome note, without a lock.
_BODY = """\
    $generation = $breaker.passing
    if $generation is None:
        $result = ({probe}($later)).unwrap()
    else:
{start}        try:
            $result = {call}
        except BaseException as $error:
            $failed($generation, $error{started})
            raise
{note}    return $result
"""

# A success changes nothing for an empty streak.
_NOTE_STREAK = """\
        if $streak.length:
            $succeeded($generation)
"""

# A success is one more call in the bucket of now. Under the GIL `calls += 1` cannot be torn: threads switch only at
# calls and back edges. A result of another generation, or one that may change a verdict, goes the long way.
_NOTE_WINDOW = """\
        $now = $clock.now()
        if $now < $window.quiet_until and $breaker.passing is $generation{quick}:
            $window.calls += 1
        else:
            $succeeded($generation{started})
"""

_NOTE_UNDER_LOCK = """\
        $succeeded($generation{started})
"""

_JUDGE = """\
        if $unwanted($result):
            $disappointed($generation{started})
        else:
"""


def _body(probe: str, call: str, *, note: str, timed: bool, judged: bool) -> str:
    started = ", $started" if timed else ""
    if judged:
        note = _JUDGE + "".join(f"    {line}" for line in note.splitlines(keepends=True))
    return _BODY.format(
        probe=probe,
        call=call,
        start="        $started = $clock.now()\n" if timed else "",
        note=note.format(started=started, quick=" and $now - $started < $slow" if timed else ""),
        started=started,
    )


_UNNAMED = "circuit_breaker"


class SharedCircuits(Protocol):
    """Where circuit breakers of one name in several processes tell each other what they have found out."""

    def join(self, name: str, adopt: Callable[[CircuitState, float], object], /) -> None:
        """Call `adopt` with a state, and for how many seconds if it is OPEN, when another process tells it."""
        ...

    def announce(self, name: str, state: CircuitState, seconds: float, /) -> None:
        """Tell the others; returns at once."""
        ...


class CircuitMetrics(NamedTuple):
    """What a breaker knows about itself at one moment.

    Attributes:
        state: The state, as `CircuitBreaker.state` gives it.
        streak: Failures in a row while calls pass; 0 without a `failure_threshold`.
        calls: Calls in the window; 0 without a rate.
        failure_rate: The share of them that failed (0 to 1).
        slow_rate: The share of them that was slow (0 to 1).
        failures: Recorded failures in all.
        rejected: Calls refused in all, or in shadow mode: that would have been.
        opened: How often it has opened.
        retry_after: Seconds until a refused call has a chance, or `None`.
    """

    state: CircuitState
    streak: int
    calls: int
    failure_rate: float
    slow_rate: float
    failures: int
    rejected: int
    opened: int
    retry_after: float | None


class CircuitBreaker(Policy):
    """A circuit breaker; made by `circuit_breaker`."""

    def __init__(
        self,
        name: str,
        rules: _Rules,
        machine: Breaker,
        judge: _Judge,
        *,
        shadow: bool,
        shared: SharedCircuits | None,
    ) -> None:
        self.name = name
        self._rules = rules
        self._machine = machine
        self._judge = judge
        self._shadow = shadow
        self._shared = shared
        self._lock = new_lock()  # guards the machine and the totals; never held over user code
        self._failures = self._rejected = self._opened = 0
        timed, judged = judge.slow_after is not None, judge.unwanted is not None
        self._templates = Templates(
            name="circuit_breaker",
            blocking=_body("$probe", "$call", note=rules.note, timed=timed, judged=judged),
            asyncio=_body("await $aprobe", "await $call", note=rules.note, timed=timed, judged=judged),
            generator=generator_within("with $guard():"),
            async_generator=async_generator_within("async with $guard():"),
        )

    _adjustable = frozenset(
        {
            "concurrent_probes",
            "failure_rate",
            "failure_threshold",
            "ignore",
            "longest_recovery",
            "min_calls",
            "on_state_change",
            "probe_timeout",
            "probes",
            "record",
            "recovery_timeout",
            "slow_call_rate",
        }
    )

    @property
    def state(self) -> CircuitState:
        """The state at this moment; `HALF_OPEN` as soon as the open time is over, before any call."""
        self._tick()
        return self._machine.state

    def metrics(self) -> CircuitMetrics:
        """Return the totals and the state at this moment."""
        self._tick()
        with self._lock:
            now = clock.now()
            recent = self._rules.counts(now)
            return CircuitMetrics(
                state=self._machine.state,
                streak=self._rules.streak.length if self._rules.streak else 0,
                calls=recent.calls,
                failure_rate=recent.failures / max(recent.calls, 1),
                slow_rate=recent.slow / max(recent.calls, 1),
                failures=self._failures,
                rejected=self._rejected,
                opened=self._opened,
                retry_after=self._machine.retry_after(now),
            )

    def guard(self) -> Guard:
        """Return a context manager that protects one block, for `with` and `async with`; a new one for each use.

        Example:
            >>> supplier = circuit_breaker("supplier", failure_threshold=5)
            >>> with supplier.guard():
            ...     answer = 42
        """
        return Guard(self)

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return what it counts, for exporters."""
        from paintkit import _catalogue

        metrics = self.metrics()
        states = {state.value: state is metrics.state for state in CircuitState}
        return _catalogue.BREAKER.read(self.name, metrics._asdict() | states)

    def force_open(self) -> None:
        """Refuse every call until `reset()`."""
        self._enter(CircuitState.FORCED_OPEN)

    def disable(self) -> None:
        """Let every call pass and record nothing until `reset()`."""
        self._enter(CircuitState.DISABLED)

    def metrics_only(self) -> None:
        """Let every call pass and record its result, but never open, until `reset()`."""
        self._enter(CircuitState.METRICS_ONLY)

    def _take_over(self, fresh: CircuitBreaker) -> None:
        with self._lock:
            self._rules.take_over(fresh._rules)  # first, for it may refuse
            self._machine.take_over(fresh._machine)
            self._judge = fresh._judge

    def reset(self) -> None:
        """Close the circuit and forget its history."""
        self._enter(CircuitState.CLOSED)

    def __repr__(self) -> str:
        return f"<circuit_breaker {self.name!r}: {self.state.value}>"

    def _helpers(self) -> Mapping[str, Any]:
        return {
            "breaker": self._machine,
            "streak": self._rules.streak,
            "window": self._rules.window,
            "clock": clock,
            "slow": self._judge.slow_after,
            "unwanted": self._judge.unwanted,
            "failed": self._failed_while_passing,
            "succeeded": self._succeeded_while_passing,
            "disappointed": self._disappointed_while_passing,
            "probe": self._probe,
            "aprobe": self._aprobe,
            "guard": self.guard,
            "aopen": aopen_stream,
        }

    # What follows the happy path. `started` is 0 where nobody asks how long a call took.

    def _failed_while_passing(self, generation: int, error: BaseException, started: float = 0.0) -> None:
        self._settle(Permit(generation), started, error)

    def _succeeded_while_passing(self, generation: int, started: float = 0.0) -> None:
        self._record(Permit(generation), started, failed=False)

    def _disappointed_while_passing(self, generation: int, started: float = 0.0) -> None:
        self._record(Permit(generation), started, failed=True)

    def _probe(self, call: Callable[[], Any]) -> Outcome[Any]:
        return drive(self._guarded(call, BLOCKING))

    async def _aprobe(self, call: Callable[[], Any]) -> Outcome[Any]:
        return await self._guarded(call, ASYNCIO)

    async def _guarded(self, call: Callable[[], Any], runtime: Runtime) -> Outcome[Any]:
        """Make one call with the permit that it needs when not every call may pass."""
        permit = self._acquire()
        if permit is None:
            return await runtime.attempt(call)
        started = clock.now()
        try:
            outcome = await runtime.attempt(call)
        except BaseException as error:
            self._settle(permit, started, error)
            raise
        if isinstance(outcome, Failure):
            self._settle(permit, started, outcome.error)
        else:
            self._record(permit, started, failed=self._judge.is_unwanted(outcome.value))
        return outcome

    # Permits: acquired before a call, then recorded with its result or given back.

    def _acquire(self) -> Permit | None:
        """Return a permit, or `None` where a shadow lets a call pass that it would refuse.

        Raises:
            CircuitOpenError: A new object for every refusal.
        """
        self._tick()
        with self._lock:
            decision = self._machine.admit(clock.now())
            if isinstance(decision, Permit):
                return decision
            self._rejected += 1
        kind = "circuit_breaker.would_reject" if self._shadow else "circuit_breaker.rejected"
        observations.emit(kind, self.name, retry_after=decision.retry_after)
        if self._shadow:
            return None
        raise CircuitOpenError(self.name, decision.retry_after)

    def _settle(self, permit: Permit, started: float, error: BaseException) -> None:
        """Record what an error says about the dependency; if that is nothing, give the permit back."""
        if self._judge.is_failure(error, started):
            self._record(permit, started, failed=True)
        else:
            self._release(permit)

    def _release(self, permit: Permit) -> None:
        self._tick()
        with self._lock:
            if self._machine.is_current(permit):
                self._machine.released(permit)

    def _record(self, permit: Permit, started: float, *, failed: bool) -> None:
        self._tick()  # a lease that has ended meanwhile makes this result stale
        now = clock.now()
        with self._lock:
            current = self._machine.is_current(permit)
            transition = None
            if current and self._machine.state is not CircuitState.DISABLED:
                slow = self._judge.is_slow(now - started)
                transition = self._machine.record(permit, now, failed=failed, slow=slow)
                self._failures += failed
                self._note(transition)
        if not current:
            observations.emit("circuit_breaker.stale_result", self.name)
        self._share(transition)
        self._announce(transition)

    # Transitions: made under the lock, announced after it is released.

    def _tick(self) -> None:
        if self._machine.passing is not None:
            return  # time changes nothing for a breaker that lets calls pass
        with self._lock:
            transition = self._machine.tick(clock.now())
            self._note(transition)
        self._share(transition)
        self._announce(transition)

    def _enter(self, state: CircuitState) -> None:
        with self._lock:
            transition = self._machine.enter(state, clock.now())
        self._announce(transition)

    def _note(self, transition: Transition | None) -> None:
        if transition is not None and transition.after is CircuitState.OPEN:
            self._opened += 1

    def _share(self, transition: Transition | None) -> None:
        """Leave word for the same breaker in other processes of what this one has found out."""
        if self._shared is None or transition is None:
            return
        state = transition.after
        if state is CircuitState.OPEN or state is CircuitState.CLOSED:
            open_time = self._machine.open_until - clock.now() if state is CircuitState.OPEN else 0.0
            self._shared.announce(self.name, state, max(open_time, 0.0))

    def _adopt(self, state: CircuitState, seconds: float) -> None:
        """Follow what another process has found out."""
        with self._lock:
            transition = self._machine.follow(state, seconds, clock.now())
            self._note(transition)
        self._announce(transition)

    def _announce(self, transition: Transition | None) -> None:
        if transition is None:
            return
        before, after = transition
        observations.emit("circuit_breaker.state_changed", self.name, before=before, after=after)
        if self._judge.listener is not None:
            observations.notify(self._judge.listener, before, after)


class Guard:
    """Protects one block; made by `CircuitBreaker.guard`.

    Raises:
        CircuitOpenError: On entry, if the block may not run.
        RuntimeError: On a second entry; every use needs a new guard.
    """

    __slots__ = ("_breaker", "_entered", "_permit", "_started")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._permit: Permit | None = None
        self._entered = False
        self._started = 0.0

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a guard protects one block: call `.guard()` again for the next")
        self._permit = self._breaker._acquire()
        self._entered = True
        self._started = clock.now()
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if self._permit is None:
            return
        if error is None:
            self._breaker._record(self._permit, self._started, failed=False)
        else:
            self._breaker._settle(self._permit, self._started, error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        self.__exit__(_type, error, _traceback)


class _Judge(Record):
    """What the results of calls say about the dependency, as the user sees it."""

    record: Predicate | None
    ignore: Predicate | None
    unwanted: Callable[[Any], object] | None
    slow_after: float | None
    listener: Callable[[CircuitState, CircuitState], object] | None

    def is_failure(self, error: BaseException, started: float) -> bool:
        """Whether an error counts: not a refusal of ours, not the caller's own cancellation."""
        if not isinstance(error, Exception):
            return self._was_cut_short(error, started)
        if isinstance(error, RejectedError) or (self.ignore is not None and self.ignore(error)):
            return False
        return self.record is None or self.record(error)

    def is_unwanted(self, result: object) -> bool:
        """Whether a result counts as a failure."""
        return self.unwanted is not None and bool(self.unwanted(result))

    def is_slow(self, elapsed: float) -> bool:
        """Whether a call that took so many seconds counts as slow."""
        return self.slow_after is not None and elapsed >= self.slow_after

    def _was_cut_short(self, error: BaseException, started: float) -> bool:
        """Whether a cancellation speaks of the dependency: our deadline came, or it was slow already."""
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            return False
        left = ambient.remaining()
        return (left is not None and left <= 0) or (started > 0 and self.is_slow(clock.now() - started))


class _Rules(Record):
    """The trip rules as the happy path sees them."""

    rule: TripRule
    note: str
    streak: Streak | None
    rate: Rate | None

    @classmethod
    def of(cls, streak: Streak | None, rate: Rate | None) -> _Rules:
        """Choose the cheapest note of a success that tells the rules what they need."""
        if streak is not None and rate is not None:
            return cls(rule=Either(streak, rate), note=_NOTE_UNDER_LOCK, streak=streak, rate=rate)
        if streak is not None:
            return cls(rule=streak, note=_NOTE_STREAK, streak=streak, rate=None)
        if rate is None:
            raise ValueError("a circuit breaker needs a rule")
        note = _NOTE_WINDOW if isinstance(rate.window, TimeWindow) and _has_gil() else _NOTE_UNDER_LOCK
        return cls(rule=rate, note=note, streak=None, rate=rate)

    @property
    def window(self) -> Window | None:
        """What the rate looks at."""
        return None if self.rate is None else self.rate.window

    def take_over(self, fresh: _Rules) -> None:
        """Go on with other limits of the same rules.

        Raises:
            ValueError: The rules are others.
        """
        if (self.streak is None, self.rate is None) != (fresh.streak is None, fresh.rate is None):
            raise ValueError(
                "failure_threshold, or failure_rate and min_calls, cannot make a streak of a rate, nor the reverse:"
                " make a new breaker for that"
            )
        if self.streak is not None and fresh.streak is not None:
            self.streak.take_over(fresh.streak)
        if self.rate is not None and fresh.rate is not None:
            self.rate.take_over(fresh.rate)

    def counts(self, now: float) -> Counts:
        """What the window holds."""
        return Counts(0, 0, 0) if self.window is None else self.window.counts(now)


def _has_gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


@never_bare("parentheses, even without options", "@circuit_breaker()")
@remembered
def circuit_breaker(
    name: str = _UNNAMED,
    *,
    failure_threshold: int | None = None,
    failure_rate: float | None = None,
    window: Seconds | None = None,
    window_calls: int | None = None,
    min_calls: int | None = None,
    slow_call_duration: Seconds | None = None,
    slow_call_rate: float | None = None,
    recovery_timeout: Seconds = 30.0,
    longest_recovery: Seconds = 300.0,
    probes: int = 3,
    concurrent_probes: int = 1,
    probe_timeout: Seconds | None = None,
    record: ErrorMatch | None = None,
    ignore: ErrorMatch | None = None,
    record_result: Callable[[Any], object] | None = None,
    on_state_change: Callable[[CircuitState, CircuitState], object] | None = None,
    shadow: bool = False,
    shared: SharedCircuits | None = None,
) -> CircuitBreaker:
    """Return a policy that stops calls to what keeps failing, and probes it when it may have recovered.

    Closed, it passes calls on and watches them: for a streak of failures (`failure_threshold`), or for the share of
    failures among the recent calls (`failure_rate`), or both; with neither given, for a rate of 0.5 over 30 s. When it
    trips it opens: calls are refused at once with `CircuitOpenError`. When the open time is over it is half-open: single
    probes pass, and `probes` of them decide whether it closes, or opens again for twice as long. One policy stands for
    one dependency: decorate every function that calls it with the same policy.

    Args:
        name: The label in errors, observations and statistics.
        failure_threshold: Failures without a success between them that open the circuit (>= 1).
        failure_rate: The share of failures that opens it (> 0, at most 1); 0.5 unless only a streak is asked for.
        window: The seconds (> 0), or a `timedelta`, that the rate looks back; 30 by default.
        window_calls: How many of the last calls the rate looks at instead (>= 1).
        min_calls: How many calls there must be in the window before the rate counts (>= 1); 20 by default, or
            `window_calls` if that is fewer.
        slow_call_duration: Seconds (> 0) from which a call counts as slow; a slow probe counts as failed.
        slow_call_rate: The share of slow calls that opens the circuit (> 0, at most 1); 0.5 by default.
        recovery_timeout: Seconds (> 0) or a `timedelta` of the first open time, which is exact.
        longest_recovery: The most seconds that the open time grows to; never less than `recovery_timeout`.
        probes: How many probes make a round (>= 1). A round fails as soon as too many of them have failed: any, for a
            streak; the share, for a rate.
        concurrent_probes: How many probes may run at once (1 up to `probes`).
        probe_timeout: Seconds (> 0) after which a probe that has not come back counts as failed; `recovery_timeout` by
            default.
        record: Which exceptions count as failures: types or a predicate; all by default. Refusals by paintkit's own
            policies never count.
        ignore: Which exceptions say nothing about the dependency (neither failure nor success); wins over `record`.
        record_result: A predicate; a result for which it is true counts as a failure and is returned all the same.
        on_state_change: Called with the state before and after every transition, outside the lock; its failure is logged.
        shadow: Only report what would be refused (observation `circuit_breaker.would_reject`); every call passes.
        shared: Where breakers of this name in several processes tell each other that they opened or closed:
            `paintkit.redis.RedisBreakerState`. A call never waits for it.

    Returns:
        The policy: a decorator for `def` and `async def`, with `.guard()` for blocks, `.call(fn, ...)`, `.acall(fn, ...)`,
        `.state`, `.metrics()`, `.force_open()`, `.disable()`, `.metrics_only()` and `.reset()`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or contradicts another.

    Example:
        >>> supplier = circuit_breaker("supplier", failure_threshold=2, recovery_timeout=30.0)
        >>> @supplier
        ... def order(sku: str) -> str:
        ...     raise ConnectionError("no answer")
        >>> for _ in range(2):
        ...     try:
        ...         order("A-1")
        ...     except ConnectionError:
        ...         pass
        >>> supplier.state
        <CircuitState.OPEN: 'open'>
    """
    about_rate: dict[str, Any] = {
        "failure_rate": failure_rate,
        "window": window,
        "window_calls": window_calls,
        "min_calls": min_calls,
        "slow_call_duration": slow_call_duration,
        "slow_call_rate": slow_call_rate,
    }
    streak = (
        None
        if failure_threshold is None
        else Streak(_arguments.count("failure_threshold", failure_threshold))
    )
    needs_rate = streak is None or any(option is not None for option in about_rate.values())
    if slow_call_rate is not None and slow_call_duration is None:
        raise ValueError(
            "slow_call_rate needs slow_call_duration: the seconds from which a call counts as slow"
        )
    rate = _rate(**about_rate) if needs_rate else None
    judge = _Judge(
        record=None if record is None else _arguments.errors("record", record),
        ignore=None if ignore is None else _arguments.errors("ignore", ignore),
        unwanted=None if record_result is None else _arguments.callback("record_result", record_result),
        slow_after=_arguments.seconds_or_none(
            "slow_call_duration", slow_call_duration, none="counts no call as slow"
        ),
        listener=None if on_state_change is None else _arguments.callback("on_state_change", on_state_change),
    )
    rules = _Rules.of(streak, rate)
    open_time = _arguments.seconds("recovery_timeout", recovery_timeout)
    round_size = _arguments.count("probes", probes)
    machine = Breaker(
        rules.rule,
        recovery_timeout=open_time,
        longest_recovery=max(open_time, _arguments.seconds("longest_recovery", longest_recovery)),
        probes=round_size,
        concurrent_probes=_arguments.count("concurrent_probes", concurrent_probes, most=round_size),
        probe_timeout=open_time
        if probe_timeout is None
        else _arguments.seconds("probe_timeout", probe_timeout),
        random=lambda: backoff.shared_rng().random(),
    )
    breaker = CircuitBreaker(
        _arguments.label("name", name),
        rules,
        machine,
        judge,
        shadow=_arguments.flag("shadow", shadow),
        shared=shared,
    )
    if shared is not None:
        if name == _UNNAMED:
            raise ValueError("a circuit breaker with shared= needs a name: the same in every process")
        shared.join(name, breaker._adopt)
    return breaker


def _rate(
    *,
    failure_rate: float | None,
    window: Seconds | None,
    window_calls: int | None,
    min_calls: int | None,
    slow_call_duration: Seconds | None,
    slow_call_rate: float | None,
) -> Rate:
    if window is not None and window_calls is not None:
        raise ValueError("window (seconds) and window_calls (a number of calls) exclude each other: pass one")
    share = 0.5 if failure_rate is None else _arguments.ratio("failure_rate", failure_rate)
    slow = 0.5 if slow_call_rate is None else _arguments.ratio("slow_call_rate", slow_call_rate)
    size = None if window_calls is None else _arguments.count("window_calls", window_calls, most=1_000_000)
    least = min(20, size or 20)
    if min_calls is not None:
        least = _arguments.count("min_calls", min_calls, most=size)
    span = 30.0 if window is None else _arguments.seconds("window", window)
    recent: Window = TimeWindow(span, least) if size is None else CountWindow(size)
    return Rate(recent, share, None if slow_call_duration is None else slow, least)
