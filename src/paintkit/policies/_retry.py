"""Retry: call again what failed for a reason that passes."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from paintkit import _arguments, ambient, backoff, clock, observations
from paintkit._runtime import ASYNCIO, BLOCKING, Failure, Outcome, Runtime, Success, drive
from paintkit._wrap import Policy, Templates, name_of
from paintkit.errors import CircuitOpenError, DeadlineExceededError
from paintkit.machines.retrying import GiveUp, RetryPlan

if TYPE_CHECKING:
    from paintkit.typing import ErrorMatch, Seconds

__all__ = ["Attempt", "Attempts", "Retry", "retry"]

_DEFAULT_BACKOFF = backoff.exponential(0.1, cap=10.0, jitter="full")

# The happy path: one read of the deadline, one call. What follows a failure is out of line, in `Retry._follow`.
# `$outcome` is deleted because the traceback of its error holds this frame, and this frame would hold the error.
_BODY = """\
    if $deadline() is not None:
        $check_deadline()
{start}    $outcome = None
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


def _body(call: str, recover: str, *, timed: bool, judged: bool) -> str:
    return _BODY.format(
        call=call,
        recover=recover,
        judge=_JUDGE if judged else "",
        start="    $started = $clock.now()\n" if timed else "",
        started=", $started" if timed else "",
    )


class Retry(Policy):
    """A retry policy; made by `retry`."""

    def __init__(
        self,
        *,
        on: Callable[[Exception], bool],
        attempts: int,
        schedule: backoff.Schedule,
        on_result: Callable[[Any], object] | None,
        max_elapsed: float | None,
        name: str | None,
    ) -> None:
        self._on = on
        self._most_attempts = attempts
        self._schedule = schedule
        self._unwanted = on_result
        self._max_elapsed = max_elapsed
        self._given_name = name
        self.name = name or "retry"
        self._retries = 0
        self._counting = threading.Lock()  # guards _retries
        timed, judged = max_elapsed is not None, on_result is not None
        self._templates = Templates(
            "retry",
            blocking=_body("$call", "$recover", timed=timed, judged=judged),
            asyncio=_body("await $call", "await $arecover", timed=timed, judged=judged),
        )

    @property
    def retries(self) -> int:
        """How many attempts beyond the first this policy has made, over all calls."""
        return self._retries

    def attempts(self) -> Attempts:
        """Return the attempts of one block, for `for` or `async for`.

        Raises:
            ValueError: The policy judges results, and a block has none.

        Example:
            >>> for attempt in retry(on=OSError, attempts=3).attempts():
            ...     with attempt:
            ...         value = "done"
            >>> value
            'done'
        """
        if self._unwanted is not None:
            raise ValueError(
                "on_result cannot judge a block, which has no result: decorate a function instead"
            )
        return Attempts(self)

    def __repr__(self) -> str:
        return f"<retry {self.name!r}: {self._most_attempts} attempts, {self._schedule}>"

    def _helpers(self) -> Mapping[str, Any]:
        return {
            "deadline": ambient.deadline.get,
            "check_deadline": self._check_deadline,
            "clock": clock,
            "unwanted": self._unwanted,
            "recover": self._recover,
            "arecover": self._arecover,
            "Failure": Failure,
            "Success": Success,
        }

    def _check_deadline(self) -> None:
        left = ambient.remaining()
        if left is not None and left <= 0:
            raise DeadlineExceededError(
                f"{self.name!r} made no attempt: the deadline was over {-left:.3g} s ago"
            )

    def _recover(self, outcome: Outcome[Any], call: Callable[[], Any], started: float = 0.0) -> Outcome[Any]:
        return drive(self._follow(outcome, call, started, BLOCKING))

    async def _arecover(
        self, outcome: Outcome[Any], call: Callable[[], Any], started: float = 0.0
    ) -> Outcome[Any]:
        return await self._follow(outcome, call, started, ASYNCIO)

    async def _follow(
        self, outcome: Outcome[Any], call: Callable[[], Any], started: float, runtime: Runtime
    ) -> Outcome[Any]:
        """Turn the outcome of a first attempt into the outcome of the whole call."""
        progress = _Progress(self, self._given_name or name_of(call), started)
        while (delay := progress.delay_after(outcome)) is not None:
            await runtime.sleep(delay)
            if progress.is_over():
                break
            latest = await runtime.attempt(call)
            if progress.is_shut_out(latest):
                break  # the last real failure says more than the refusal
            outcome = latest
        return outcome

    def _plan(self, started: float) -> RetryPlan:
        give_up_at = math.inf if self._max_elapsed is None else started + self._max_elapsed
        return RetryPlan(self._most_attempts, self._schedule.delays(), give_up_at)

    def _wants_again(self, outcome: Outcome[Any]) -> bool:
        if isinstance(outcome, Success):
            return self._unwanted is not None and bool(self._unwanted(outcome.value))
        # An open circuit answers at once, for as long as it is open: asking again is what it protects from.
        return not isinstance(outcome.error, CircuitOpenError) and self._on(outcome.error)

    def _count(self) -> None:
        with self._counting:
            self._retries += 1


class _Progress:
    """One call on its way: the plan's decisions, told to observers."""

    __slots__ = ("_label", "_plan", "_retry")

    def __init__(self, retry: Retry, label: str, started: float) -> None:
        self._retry = retry
        self._label = label
        self._plan = retry._plan(started)

    def delay_after(self, outcome: Outcome[Any]) -> float | None:
        """Seconds to wait before the next attempt, or `None` when the outcome stands."""
        if not self._retry._wants_again(outcome):
            return None
        if _is_doomed():
            self._give_up("unit_of_work", outcome)
            return None
        decision = self._plan.after_failure(clock.now(), _due())
        if isinstance(decision, GiveUp):
            self._give_up(decision.reason, outcome)
            return None
        self._retry._count()
        self._tell("retry.waiting", outcome, attempt=self._plan.made, delay=decision.seconds)
        return decision.seconds

    def is_over(self) -> bool:
        """Whether the deadline passed while we slept."""
        return clock.now() >= _due()

    def is_shut_out(self, outcome: Outcome[Any]) -> bool:
        """Whether a circuit opened since the last attempt."""
        if isinstance(outcome, Failure) and isinstance(outcome.error, CircuitOpenError):
            self._tell("retry.gave_up", outcome, attempts=self._plan.made, reason="circuit_open")
            return True
        return False

    def _give_up(self, reason: str, outcome: Outcome[Any]) -> None:
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


class Attempts:
    """The attempts of one block, in either colour; made by `Retry.attempts`."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry

    def __iter__(self) -> Iterator[Attempt]:
        """Yield attempts until one succeeds; the last failure leaves the block as it is."""
        attempt = self._first()
        yield attempt
        while attempt.delay is not None:
            clock.sleep(attempt.delay)
            attempt = attempt.following()
            yield attempt
            attempt.settle()

    async def __aiter__(self) -> AsyncIterator[Attempt]:
        """Yield attempts like `for` does, and sleep without blocking the loop."""
        attempt = self._first()
        yield attempt
        while attempt.delay is not None:
            await ASYNCIO.sleep(attempt.delay)
            attempt = attempt.following()
            yield attempt
            attempt.settle()

    def _first(self) -> Attempt:
        self._retry._check_deadline()
        return Attempt(1, _Progress(self._retry, self._retry.name, clock.now()), None)


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

    def following(self) -> Attempt:
        """Return the attempt after this failed one."""
        return Attempt(self.number + 1, self._progress, self._failure)

    def settle(self) -> None:
        """Raise the last real failure if this attempt was refused by an open circuit."""
        if self._shut_out and self._previous is not None:
            self._previous.unwrap()


def retry(
    *,
    on: ErrorMatch,
    attempts: int = 3,
    backoff: backoff.Schedule = _DEFAULT_BACKOFF,
    on_result: Callable[[Any], object] | None = None,
    max_elapsed: Seconds | None = None,
    name: str | None = None,
) -> Retry:
    """Return a policy that calls again what failed for a reason that passes.

    Exhausted attempts raise the function's own last exception, as it is. Only subclasses of `Exception` are ever
    retried, and `CircuitOpenError` never is. A wait that does not fit into `max_elapsed` or the ambient deadline is
    refused before it is slept. Inside an open unit of work that can only be rolled back, nothing is retried.

    Args:
        on: What is worth another attempt: an exception type, a tuple of them, or a predicate.
        attempts: How many attempts there may be in all, the first included (>= 1; 1 never retries).
        backoff: The delays between attempts; full jitter from 0.1 s up to 10 s by default.
        on_result: A predicate; a result for which it is true counts as a failed attempt. When attempts are exhausted,
            the last result is returned.
        max_elapsed: Seconds (> 0) or a `timedelta` from the start of the call, after which no attempt starts.
        name: The label in observations and notes; the function's qualified name by default.

    Returns:
        The policy: a decorator for `def` and `async def`, with `.call(fn, ...)`, `.acall(fn, ...)` and `.attempts()`.

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
    if not callable(getattr(backoff, "delays", None)):
        raise TypeError(
            f"backoff must be a schedule with a `delays()` method, such as backoff.constant(1), not {backoff!r}"
        )
    return Retry(
        on=_arguments.errors("on", on),
        attempts=_arguments.count("attempts", attempts),
        schedule=backoff,
        on_result=None if on_result is None else _arguments.callback("on_result", on_result),
        max_elapsed=None if max_elapsed is None else _arguments.seconds("max_elapsed", max_elapsed),
        name=None if name is None else _arguments.label("name", name),
    )


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
