"""Retry: call again what failed for a reason that passes."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, cast

from paintkit import _arguments, ambient, backoff, clock, observations
from paintkit._locks import new_lock
from paintkit._record import Record
from paintkit._runtime import ASYNCIO, BLOCKING, Failure, Outcome, Runtime, Success, drive
from paintkit._streams import ASYNC_DELEGATION, AsyncStream, Stream, aopen_stream, open_stream, resume
from paintkit._words import counted
from paintkit._wrap import Cost, Policy, Templates, call_of, name_of, never_bare, remembered
from paintkit.errors import CircuitOpenError, DeadlineExceededError

if TYPE_CHECKING:
    import functools

    from paintkit.budget import RetryBudget
    from paintkit.telemetry import Metric, Source
    from paintkit.typing import ErrorMatch, Predicate, Seconds

__all__ = ["Attempt", "Attempts", "Retry", "retry"]

_DEFAULT_BACKOFF = backoff.exponential(0.1, cap=10.0, jitter="full")

# A server's hint is spread by up to this share of it, or all clients come back at once.
_HINT_SPREAD = 0.1


def _hint_of(source: object) -> object:
    """Read the hint that an exception or a result carries itself."""
    return getattr(source, "retry_after", None)


# The happy path: one read of the deadline, one call. What follows a failure is out of line, in `Retry._follow`.
# `$outcome` is deleted because the traceback of its error holds this frame, and this frame would hold the error.
_BODY = """\
    if $deadline() is not None:
        $check_deadline()
{before}    $outcome = None
    try:
        $result = {call}
    except Exception as $error:
        $outcome = $Failure($error)
{judge}    if $outcome is not None:
        try:
            $result = ({recover}($outcome, $later{started})).unwrap()
        finally:
            del $outcome
    return $result
"""

_JUDGE = """\
    else:
        if $unwanted($result):
            $outcome = $Success($result)
"""


class _Options(Record):
    """The arguments of `retry`, validated."""

    on: Predicate
    never: Predicate | None
    attempts: int
    schedule_for: Callable[[Exception | None], backoff.Schedule]
    on_result: Callable[[Any], object] | None
    max_elapsed: float | None
    retry_after: Callable[[Any], Any] | None
    retry_after_cap: float
    budget: RetryBudget | None
    idempotent: Callable[..., object] | None
    wait_for_circuit: bool
    as_group: bool
    name: str | None

    def templates(self) -> Templates:
        """Write the wrappers, with no more on the happy path than these options need."""
        before = "    $deposit()\n" if self.budget else ""
        before += "    $started = $clock.now()\n" if self.max_elapsed is not None else ""
        common = {
            "before": before,
            "judge": _JUDGE if self.on_result is not None else "",
            "started": ", $started" if self.max_elapsed is not None else "",
        }
        return Templates(
            name="retry",
            blocking=_BODY.format(call="$call", recover="$recover", **common),
            asyncio=_BODY.format(call="await $call", recover="await $arecover", **common),
            generator="    return (yield from $resume($open($later)))\n",
            async_generator="    $rest, $item = await $aopen($later)\n" + ASYNC_DELEGATION,
        )


class Retry(Policy):
    """A retry policy; made by `retry`."""

    _adjustable = frozenset(
        {
            "attempts",
            "backoff",
            "idempotent",
            "never",
            "on",
            "retry_after",
            "retry_after_cap",
            "wait_for_circuit",
        }
    )

    def __init__(self, options: _Options) -> None:
        self._options = options
        self.name = options.name or "retry"
        self._templates = options.templates()
        self._retries = self._given_up = 0
        self._counting = new_lock()  # guards both

    @property
    def retries(self) -> int:
        """How many attempts beyond the first this policy has made, over all calls."""
        return self._retries

    def attempts(self) -> Attempts:
        """Return the attempts of one block, for `for` or `async for`.

        Raises:
            ValueError: The policy judges results or arguments, which a block does not have, or groups errors.

        Example:
            >>> for attempt in retry(on=OSError, attempts=3).attempts():
            ...     with attempt:
            ...         value = "done"
            >>> value
            'done'
        """
        for option in ("on_result", "idempotent", "as_group"):
            if getattr(self._options, option):
                raise ValueError(
                    f"{option} means nothing to a block, which has no arguments and no result and raises its own"
                    " errors: decorate a function instead"
                )
        return Attempts(self)

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return what it counts, for exporters, and its budget."""
        from paintkit import _catalogue

        yield from _catalogue.RETRY.read(self.name, {"retries": self._retries, "gave_up": self._given_up})
        if self._options.budget is not None:
            yield self._options.budget

    def worst_case(self, cost: Cost) -> Cost:
        """Every attempt is made, and every delay is as long as its schedule allows."""
        attempts = self._options.attempts
        schedule = self._options.schedule_for(None)
        waits = sum(islice(backoff.longest(schedule).delays(), attempts - 1))
        seconds = attempts * cost.seconds + waits
        if self._options.max_elapsed is not None:
            seconds = min(seconds, self._options.max_elapsed + cost.seconds)
        return Cost(calls=cost.calls * attempts, seconds=seconds)

    def __repr__(self) -> str:
        return f"<retry {self.name!r}: {counted(self._options.attempts, 'attempt')}>"

    def _take_over(self, fresh: Retry) -> None:
        self._options = fresh._options

    def _helpers(self) -> Mapping[str, Any]:
        return {
            "deadline": ambient.deadline.get,
            "check_deadline": self._check_deadline,
            "deposit": self._options.budget and self._options.budget.deposit,
            "clock": clock,
            "unwanted": self._options.on_result,
            "recover": self._recover,
            "arecover": self._arecover,
            "Failure": Failure,
            "Success": Success,
            "resume": resume,
            "open": self._open,
            "aopen": self._aopen,
        }

    def _check_deadline(self) -> None:
        left = ambient.remaining()
        if left is not None and left <= 0:
            raise DeadlineExceededError(
                f"{self.name!r} made no attempt: the deadline was over {-left:.3g} s ago"
            )

    def _recover(
        self, outcome: Outcome[Any], call: functools.partial[Any], started: float = 0.0
    ) -> Outcome[Any]:
        return drive(self._follow(outcome, call, started, BLOCKING))

    async def _arecover(
        self, outcome: Outcome[Any], call: functools.partial[Any], started: float = 0.0
    ) -> Outcome[Any]:
        return await self._follow(outcome, call, started, ASYNCIO)

    def _open(self, call: functools.partial[Any]) -> Stream:
        """Retry a generator up to its first item."""
        return self.call(open_stream, call)

    async def _aopen(self, call: functools.partial[Any]) -> AsyncStream:
        return await self.acall(aopen_stream, call)

    async def _follow(
        self, outcome: Outcome[Any], call: functools.partial[Any], started: float, runtime: Runtime
    ) -> Outcome[Any]:
        """Turn the outcome of a first attempt into the outcome of the whole call."""
        progress = _Progress(self, call_of(call), started)
        while (delay := progress.delay_after(outcome)) is not None:
            await progress.sleep(delay, runtime)
            if progress.is_over():
                progress.refund()
                break
            latest = await runtime.attempt(call)
            if progress.is_shut_out(latest):
                break  # the last real failure says more than the refusal
            outcome = latest
        return progress.settle(outcome)

    def _wants_again(self, outcome: Outcome[Any]) -> bool:
        options = self._options
        if isinstance(outcome, Success):
            return options.on_result is not None and bool(options.on_result(outcome.value))
        error = outcome.error
        if isinstance(error, CircuitOpenError):
            # An open circuit answers at once, for as long as it is open: asking again is what it protects from.
            return options.wait_for_circuit and error.retry_after is not None
        return not (options.never is not None and options.never(error)) and options.on(error)

    def _count(self) -> None:
        with self._counting:
            self._retries += 1

    def _count_given_up(self) -> None:
        with self._counting:
            self._given_up += 1


class _Progress:
    """One call on its way: the plan's decisions, told to observers."""

    __slots__ = ("_call", "_delays", "_errors", "_label", "_options", "_plan", "_retry")

    def __init__(self, retry: Retry, call: functools.partial[Any] | None, started: float) -> None:
        from paintkit.machines.retrying import RetryPlan  # a call that succeeds at once plans nothing

        options = retry._options
        give_up_at = math.inf if options.max_elapsed is None else started + options.max_elapsed
        self._retry = retry
        self._options = options
        self._call = call
        self._label = options.name or (retry.name if call is None else name_of(call))
        self._plan = RetryPlan(options.attempts, give_up_at, options.retry_after_cap)
        self._delays: list[_Delays] = []  # one per schedule: each goes on where this call left it
        self._errors: list[Exception] | None = [] if options.as_group else None

    def delay_after(self, outcome: Outcome[Any]) -> float | None:
        """Seconds to wait before the next attempt, or `None` when the outcome stands."""
        if self._errors is not None and isinstance(outcome, Failure):
            self._errors.append(outcome.error)
        if not self._retry._wants_again(outcome):
            return None
        decision = self._decide(outcome)
        if isinstance(decision, str):
            self._give_up(decision, outcome)
            return None
        self._plan.start()
        self._retry._count()
        self._tell("retry.waiting", outcome, attempt=self._plan.made, delay=decision)
        return decision

    async def sleep(self, seconds: float, runtime: Runtime) -> None:
        """Wait; a wait that is cancelled gives back what its attempt had been paid with."""
        try:
            await runtime.sleep(seconds)
        except BaseException:
            self.refund()
            raise

    def refund(self) -> None:
        """Give back what an attempt had been paid with that is not made."""
        if self._options.budget is not None:
            self._options.budget.refund()

    def is_over(self) -> bool:
        """Whether the deadline passed while we slept."""
        return clock.now() >= _due()

    def is_shut_out(self, outcome: Outcome[Any]) -> bool:
        """Whether a circuit opened since the last attempt, and we are not told to wait for it."""
        if not isinstance(outcome, Failure) or not isinstance(outcome.error, CircuitOpenError):
            return False
        self.refund()
        if self._options.wait_for_circuit:
            return False
        self._retry._count_given_up()
        self._tell("retry.gave_up", outcome, attempts=self._plan.made, reason="circuit_open")
        return True

    def settle(self, outcome: Outcome[Any]) -> Outcome[Any]:
        """Return what the call comes to: the outcome as it is, or all its failures if that was asked for."""
        if self._errors is None or len(self._errors) < 2 or isinstance(outcome, Success):
            return outcome
        return Failure(ExceptionGroup(f"{self._label}: {len(self._errors)} attempts failed", self._errors))

    def _decide(self, outcome: Outcome[Any]) -> float | str:
        """The delay before the next attempt, or the reason why there is none."""
        from paintkit.machines.retrying import GiveUp

        if _is_doomed():
            return "unit_of_work"
        if self._plan.is_used_up:
            return "attempts"
        if not self._may_repeat():
            return "not_idempotent"
        decision = self._plan.after_failure(
            clock.now(),
            self._next_delay(outcome),
            hint=self._hint(outcome),
            spread=1 + _HINT_SPREAD * backoff.shared_rng().random(),
            due=_due(),
        )
        if isinstance(decision, GiveUp):
            return decision.reason
        if self._options.budget is not None and not self._options.budget.withdraw():
            return "budget"
        return decision.seconds

    def _may_repeat(self) -> bool:
        idempotent, call = self._options.idempotent, self._call
        return idempotent is None or call is None or bool(idempotent(*call.args, **call.keywords))

    def _next_delay(self, outcome: Outcome[Any]) -> float:
        error = outcome.error if isinstance(outcome, Failure) else None
        if isinstance(error, CircuitOpenError):
            return error.retry_after or 0.0
        schedule = self._options.schedule_for(error)
        for delays in self._delays:
            if delays.schedule == schedule:
                return delays.next()
        self._delays.append(_Delays(schedule))
        return self._delays[-1].next()

    def _hint(self, outcome: Outcome[Any]) -> float:
        """Seconds that the server asks us to stay away."""
        source = outcome.error if isinstance(outcome, Failure) else outcome.value
        if self._options.retry_after is None or isinstance(source, CircuitOpenError):
            return 0.0
        hint = self._options.retry_after(source)
        if hasattr(hint, "total_seconds"):
            hint = hint.total_seconds()
        return hint if isinstance(hint, int | float) and not isinstance(hint, bool) and hint > 0 else 0.0

    def _give_up(self, reason: str, outcome: Outcome[Any]) -> None:
        self._retry._count_given_up()
        self._tell("retry.gave_up", outcome, attempts=self._plan.made, reason=reason)
        if self._plan.made > 1 and isinstance(outcome, Failure):
            because = "" if reason == "attempts" else f" ({reason})"
            _annotate(
                outcome.error, f"paintkit: {self._label} gave up after {self._plan.made} attempts{because}"
            )

    def _tell(self, kind: str, outcome: Outcome[Any], **details: Any) -> None:
        if observations.observers:
            error = outcome.error if isinstance(outcome, Failure) else None
            observations.emit(kind, self._label, error=error, **details)


class _Delays:
    """The delays of one schedule in one call; when they end, the last one goes on."""

    __slots__ = ("_iterator", "_last", "schedule")

    def __init__(self, schedule: backoff.Schedule) -> None:
        self.schedule = schedule
        self._iterator = schedule.delays()
        self._last = 0.0

    def next(self) -> float:
        self._last = next(self._iterator, self._last)
        return self._last


class Attempts:
    """The attempts of one block, in either colour; made by `Retry.attempts`."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry

    def __iter__(self) -> Iterator[Attempt]:
        """Yield attempts until one succeeds; the last failure leaves the block as it is."""
        attempt = self._first()
        yield attempt
        while attempt.delay is not None:
            drive(attempt.pause(BLOCKING))
            attempt = attempt.following()
            yield attempt
            attempt.settle()

    async def __aiter__(self) -> AsyncIterator[Attempt]:
        """Yield attempts like `for` does, and sleep without blocking the loop."""
        attempt = self._first()
        yield attempt
        while attempt.delay is not None:
            await attempt.pause(ASYNCIO)
            attempt = attempt.following()
            yield attempt
            attempt.settle()

    def _first(self) -> Attempt:
        self._retry._check_deadline()
        if self._retry._options.budget is not None:
            self._retry._options.budget.deposit()
        return Attempt(1, _Progress(self._retry, None, clock.now()), None)


class Attempt:
    """One attempt of a block: a context manager that swallows a failure as long as another attempt follows.

    Attributes:
        number: 1 for the first attempt.
    """

    __slots__ = ("_failure", "_previous", "_progress", "_shut_out", "delay", "number")

    def __init__(self, number: int, progress: _Progress, previous: Failure | None) -> None:
        self.number = number
        #: Seconds until the next attempt, or `None` if this one is the last.
        self.delay: float | None = None
        self._progress = progress
        self._previous = previous
        self._failure: Failure | None = None
        self._shut_out = False

    def __enter__(self) -> Self:
        if self._previous is not None and self._progress.is_over():
            self._progress.refund()
            self._previous.unwrap()
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        outcome = Failure(error)
        if self._previous is not None and self._progress.is_shut_out(outcome):
            self._shut_out = True
            return True
        self.delay = self._progress.delay_after(outcome)
        if self.delay is None:
            return False
        self._failure = outcome
        return True

    async def pause(self, runtime: Runtime) -> None:
        """Wait for the next attempt."""
        await self._progress.sleep(self.delay or 0.0, runtime)

    def following(self) -> Attempt:
        """Return the attempt after this failed one."""
        return Attempt(self.number + 1, self._progress, self._failure)

    def settle(self) -> None:
        """Raise the last real failure if this attempt was refused by an open circuit."""
        if self._shut_out and self._previous is not None:
            self._previous.unwrap()


@never_bare("`on`, the errors that are worth another attempt", "@retry(on=...)")
@remembered
def retry(
    *,
    on: ErrorMatch,
    attempts: int = 3,
    backoff: backoff.Schedule | Callable[[Exception | None], backoff.Schedule] = _DEFAULT_BACKOFF,
    on_result: Callable[[Any], object] | None = None,
    never: ErrorMatch | None = None,
    max_elapsed: Seconds | None = None,
    retry_after: Callable[[Any], Any] | None = _hint_of,
    retry_after_cap: Seconds = 60.0,
    budget: RetryBudget | None = None,
    idempotent: Callable[..., object] | None = None,
    wait_for_circuit: bool = False,
    as_group: bool = False,
    name: str | None = None,
) -> Retry:
    """Return a policy that calls again what failed for a reason that passes.

    Exhausted attempts raise the function's own last exception, as it is. Only subclasses of `Exception` are ever
    retried. A wait that does not fit into `max_elapsed` or the ambient deadline is refused before it is slept. Inside an
    open unit of work that can only be rolled back, nothing is retried. A generator is retried up to its first item.

    Args:
        on: What is worth another attempt: an exception type, a tuple of them, or a predicate.
        attempts: How many attempts there may be in all, the first included (>= 1; 1 never retries).
        backoff: The delays between attempts; full jitter from 0.1 s up to 10 s by default. Or a function that chooses the
            schedule by the exception (`None` for an unwanted result); each schedule goes on where the call left it.
        on_result: A predicate; a result for which it is true counts as a failed attempt. When attempts are exhausted,
            the last result is returned.
        never: What is never worth another attempt; wins over `on`.
        max_elapsed: Seconds (> 0) or a `timedelta` from the start of the call, after which no attempt starts.
        retry_after: Called with the exception, or the unwanted result: how many seconds the server asks for, or `None`.
            By default its attribute `retry_after`; `retry_after_from` reads HTTP responses. The wait is never shorter
            than the hint, and up to 10 % longer, or all clients would come back at once.
        retry_after_cap: The longest hint, in seconds, to follow; a longer one ends the call, for it is not shortened.
        budget: Bounds retries to a share of the calls; shared by everything that calls the same dependency.
        idempotent: Called with the call's arguments: whether making this call again does no harm.
        wait_for_circuit: Whether to wait for a circuit breaker's `retry_after`, which counts as an attempt. By default
            `CircuitOpenError` is never retried; after real failures, the last of those is raised.
        as_group: Whether exhausted attempts raise an `ExceptionGroup` of all failures instead of the last one.
        name: The label in observations and notes; the function's qualified name by default.

    Returns:
        The policy: a decorator for functions, coroutine functions and generators, with `.call(fn, ...)`,
        `.acall(fn, ...)` and `.attempts()`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Example:
        >>> from paintkit import backoff
        >>> replies = iter([ConnectionError("busy"), "ready"])
        >>> @retry(on=ConnectionError, attempts=2, backoff=backoff.constant(0))
        ... def status() -> str:
        ...     reply = next(replies)
        ...     if isinstance(reply, Exception):
        ...         raise reply
        ...     return reply
        >>> status()
        'ready'
    """
    return Retry(
        _Options(
            on=_arguments.errors("on", on),
            never=None if never is None else _arguments.errors("never", never),
            attempts=_arguments.count("attempts", attempts),
            schedule_for=_schedule_for(backoff),
            on_result=None if on_result is None else _arguments.callback("on_result", on_result),
            max_elapsed=_arguments.seconds_or_none("max_elapsed", max_elapsed, none="sets no limit"),
            retry_after=None if retry_after is None else _arguments.callback("retry_after", retry_after),
            retry_after_cap=_arguments.seconds("retry_after_cap", retry_after_cap, zero=True),
            budget=None
            if budget is None
            else _arguments.having("budget", budget, "withdraw", "a RetryBudget"),
            idempotent=None if idempotent is None else _arguments.callback("idempotent", idempotent),
            wait_for_circuit=_arguments.flag("wait_for_circuit", wait_for_circuit),
            as_group=_arguments.flag("as_group", as_group),
            name=None if name is None else _arguments.label("name", name),
        )
    )


def _schedule_for(
    choice: backoff.Schedule | Callable[[Exception | None], backoff.Schedule],
) -> Callable[[Exception | None], backoff.Schedule]:
    if callable(getattr(choice, "delays", None)):
        schedule = cast("backoff.Schedule", choice)
        return lambda _error: schedule
    if not callable(choice):
        raise TypeError(
            "backoff must be a schedule with a `delays()` method, such as backoff.constant(1),"
            f" or a function that chooses one, not {choice!r}"
        )
    return _arguments.callback("backoff", choice)


def _due() -> float:
    due = ambient.deadline.get()
    return math.inf if due is None else due


def _is_doomed() -> bool:
    unit = ambient.unit_of_work.get()
    return unit is not None and unit.is_doomed()


def _annotate(error: Exception, note: str) -> None:
    """Leave at most one note of ours, whoever retries around us or raises the same object again."""
    if not any(one.startswith("paintkit: ") for one in getattr(error, "__notes__", ())):
        error.add_note(note)
