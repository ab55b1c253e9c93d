"""Circuit breaker: stop calling what is known to fail, and find out gently when it works again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from paintkit import _arguments, backoff, clock, observations
from paintkit._runtime import ASYNCIO, BLOCKING, Failure, Outcome, Runtime, drive
from paintkit._wrap import Policy, Templates
from paintkit.errors import CircuitOpenError, RejectedError
from paintkit.machines.breaker import Breaker, CircuitState, Permit, Refusal, Streak, Transition

if TYPE_CHECKING:
    from paintkit.typing import ErrorMatch, Predicate, Seconds

__all__ = ["CircuitBreaker", "CircuitMetrics", "Guard", "circuit_breaker"]

# The happy path: one flag test and one outcome note. A closed breaker whose streak is empty takes no lock.
_BODY = """\
    $generation = $breaker.passing
    if $generation is None:
        $result = ({probe}($later)).unwrap()
    else:
        try:
            $result = {call}
        except Exception as $error:
            $failed($generation, $error)
            raise
        if $streak.length:
            $succeeded($generation)
    return $result
"""

_TEMPLATES = Templates(
    "circuit_breaker",
    blocking=_BODY.format(probe="$probe", call="$call"),
    asyncio=_BODY.format(probe="await $aprobe", call="await $call"),
)


class CircuitMetrics(NamedTuple):
    """What a breaker knows about itself at one moment.

    Attributes:
        state: The state, as `CircuitBreaker.state` gives it.
        streak: Failures in a row while calls pass.
        failures: Recorded failures in all.
        rejected: Calls refused in all.
        opened: How often it has opened.
        retry_after: Seconds until a refused call has a chance, or `None`.
    """

    state: CircuitState
    streak: int
    failures: int
    rejected: int
    opened: int
    retry_after: float | None


class CircuitBreaker(Policy):
    """A circuit breaker; made by `circuit_breaker`."""

    _templates = _TEMPLATES

    def __init__(
        self,
        name: str,
        streak: Streak,
        machine: Breaker,
        *,
        ignore: Predicate | None,
        record: Predicate | None,
    ) -> None:
        self.name = name
        self._streak = streak
        self._machine = machine
        self._ignore = ignore
        self._record = record
        self._lock = threading.Lock()  # guards the machine and the totals; never held over user code
        self._failures = self._rejected = self._opened = 0

    @property
    def state(self) -> CircuitState:
        """The state at this moment; `HALF_OPEN` as soon as the open time is over, before any call."""
        self._tick()
        return self._machine.state

    def metrics(self) -> CircuitMetrics:
        """Return the totals and the state at this moment."""
        self._tick()
        with self._lock:
            return CircuitMetrics(
                state=self._machine.state,
                streak=self._streak.length,
                failures=self._failures,
                rejected=self._rejected,
                opened=self._opened,
                retry_after=self._machine.retry_after(clock.now()),
            )

    def guard(self) -> Guard:
        """Return a context manager that protects one block, for `with` and `async with`; a new one for each use.

        Example:
            >>> supplier = circuit_breaker("supplier", failure_threshold=5)
            >>> with supplier.guard():
            ...     answer = 42
        """
        return Guard(self)

    def force_open(self) -> None:
        """Refuse every call until `reset()`."""
        self._enter(CircuitState.FORCED_OPEN)

    def disable(self) -> None:
        """Let every call pass and record nothing until `reset()`."""
        self._enter(CircuitState.DISABLED)

    def metrics_only(self) -> None:
        """Let every call pass and record its result, but never open, until `reset()`."""
        self._enter(CircuitState.METRICS_ONLY)

    def reset(self) -> None:
        """Close the circuit and forget its history."""
        self._enter(CircuitState.CLOSED)

    def __repr__(self) -> str:
        return f"<circuit_breaker {self.name!r}: {self.state.value}>"

    def _helpers(self) -> Mapping[str, Any]:
        return {
            "breaker": self._machine,
            "streak": self._streak,
            "failed": self._failed_while_passing,
            "succeeded": self._succeeded_while_passing,
            "probe": self._probe,
            "aprobe": self._aprobe,
        }

    # What follows the happy path ------------------------------------------------------------------------------------

    def _failed_while_passing(self, generation: int, error: Exception) -> None:
        if self._counts(error):
            self._record_result(Permit(generation), self._machine.failed)

    def _succeeded_while_passing(self, generation: int) -> None:
        self._record_result(Permit(generation), self._machine.succeeded)

    def _probe(self, call: Callable[[], Any]) -> Outcome[Any]:
        return drive(self._guarded(call, BLOCKING))

    async def _aprobe(self, call: Callable[[], Any]) -> Outcome[Any]:
        return await self._guarded(call, ASYNCIO)

    async def _guarded(self, call: Callable[[], Any], runtime: Runtime) -> Outcome[Any]:
        """Make one call with the permit that it needs when not every call may pass."""
        permit = self._acquire()
        try:
            outcome = await runtime.attempt(call)
        except BaseException:  # cancelled or interrupted: nobody learned anything
            self._release(permit)
            raise
        self._settle(permit, outcome.error if isinstance(outcome, Failure) else None)
        return outcome

    # Permits --------------------------------------------------------------------------------------------------------

    def _acquire(self) -> Permit:
        """Return a permit.

        Raises:
            CircuitOpenError: A new object for every refusal.
        """
        self._tick()
        with self._lock:
            decision = self._machine.admit(clock.now())
            if isinstance(decision, Permit):
                return decision
            self._rejected += 1
        raise self._refusal(decision)

    def _refusal(self, refusal: Refusal) -> CircuitOpenError:
        observations.emit("circuit_breaker.rejected", self.name, retry_after=refusal.retry_after)
        return CircuitOpenError(self.name, refusal.retry_after)

    def _settle(self, permit: Permit, error: BaseException | None) -> None:
        """Record what came of a call; an error that does not count gives the permit back."""
        if error is None:
            self._record_result(permit, self._machine.succeeded)
        elif isinstance(error, Exception) and self._counts(error):
            self._record_result(permit, self._machine.failed)
        else:
            self._release(permit)

    def _release(self, permit: Permit) -> None:
        self._tick()
        with self._lock:
            if self._machine.is_current(permit):
                self._machine.released(permit)

    def _record_result(self, permit: Permit, record: Callable[[Permit, float], Transition | None]) -> None:
        self._tick()  # a lease that has ended meanwhile makes this result stale
        with self._lock:
            current = self._machine.is_current(permit)
            transition = record(permit, clock.now()) if current else None
            self._failures += current and record == self._machine.failed
            self._note(transition)
        if not current:
            observations.emit("circuit_breaker.stale_result", self.name)
        self._announce(transition)

    def _counts(self, error: Exception) -> bool:
        """Whether an error says something about what we protect; a refusal of ours says nothing about it."""
        if isinstance(error, RejectedError) or (self._ignore is not None and self._ignore(error)):
            return False
        return self._record is None or self._record(error)

    # Transitions ----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._machine.passing is not None:
            return  # time changes nothing for a breaker that lets calls pass
        with self._lock:
            transition = self._machine.tick(clock.now())
            self._note(transition)
        self._announce(transition)

    def _enter(self, state: CircuitState) -> None:
        with self._lock:
            transition = self._machine.enter(state, clock.now())
        self._announce(transition)

    def _note(self, transition: Transition | None) -> None:
        if transition is not None and transition.after is CircuitState.OPEN:
            self._opened += 1

    def _announce(self, transition: Transition | None) -> None:
        """Tell observers, after the lock is released."""
        if transition is not None:
            observations.emit(
                "circuit_breaker.state_changed", self.name, before=transition.before, after=transition.after
            )


class Guard:
    """Protects one block; made by `CircuitBreaker.guard`.

    Raises:
        CircuitOpenError: On entry, if the block may not run.
        RuntimeError: On a second entry; every use needs a new guard.
    """

    __slots__ = ("_breaker", "_permit")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._permit: Permit | None = None

    def __enter__(self) -> Self:
        if self._permit is not None:
            raise RuntimeError("a guard protects one block: call `.guard()` again for the next")
        self._permit = self._breaker._acquire()
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if self._permit is not None:
            self._breaker._settle(self._permit, error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        self.__exit__(_type, error, _traceback)


def circuit_breaker(
    name: str = "circuit_breaker",
    *,
    failure_threshold: int,
    recovery_timeout: Seconds = 30.0,
    longest_recovery: Seconds = 300.0,
    probes: int = 3,
    concurrent_probes: int = 1,
    probe_timeout: Seconds | None = None,
    record: ErrorMatch | None = None,
    ignore: ErrorMatch | None = None,
) -> CircuitBreaker:
    """Return a policy that stops calls to what keeps failing, and probes it when it may have recovered.

    Closed, it passes calls on. After `failure_threshold` failures in a row it opens: calls are refused at once with
    `CircuitOpenError`. When the open time is over it is half-open: single probes pass, and `probes` successes close it;
    a failed probe opens it again, for twice as long each time. One policy stands for one dependency: decorate every
    function that calls it with the same policy.

    Args:
        name: The label in errors, observations and statistics.
        failure_threshold: Failures without a success between them that open the circuit (>= 1).
        recovery_timeout: Seconds (> 0) or a `timedelta` of the first open time, which is exact.
        longest_recovery: The most seconds that the open time grows to; never less than `recovery_timeout`.
        probes: How many probes have to succeed to close the circuit (>= 1).
        concurrent_probes: How many probes may run at once (1 up to `probes`).
        probe_timeout: Seconds (> 0) after which a probe that has not come back counts as failed; `recovery_timeout` by
            default.
        record: Which exceptions count as failures: types or a predicate; all by default. Refusals by paintkit's own
            policies never count.
        ignore: Which exceptions say nothing about the dependency (neither failure nor success); wins over `record`.

    Returns:
        The policy: a decorator for `def` and `async def`, with `.guard()` for blocks, `.call(fn, ...)`, `.acall(fn, ...)`,
        `.state`, `.metrics()`, `.force_open()`, `.disable()`, `.metrics_only()` and `.reset()`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

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
    open_time = _arguments.seconds("recovery_timeout", recovery_timeout)
    round_size = _arguments.count("probes", probes)
    streak = Streak(_arguments.count("failure_threshold", failure_threshold))
    machine = Breaker(
        streak,
        recovery_timeout=open_time,
        longest_recovery=max(open_time, _arguments.seconds("longest_recovery", longest_recovery)),
        probes=round_size,
        concurrent_probes=_arguments.count("concurrent_probes", concurrent_probes, most=round_size),
        probe_timeout=open_time
        if probe_timeout is None
        else _arguments.seconds("probe_timeout", probe_timeout),
        random=lambda: backoff.shared_rng().random(),
    )
    return CircuitBreaker(
        _arguments.label("name", name),
        streak,
        machine,
        ignore=None if ignore is None else _arguments.errors("ignore", ignore),
        record=None if record is None else _arguments.errors("record", record),
    )
