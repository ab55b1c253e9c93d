"""Every error that paintkit raises by itself, drawn as one tree.

```
PaintkitError
├── RejectedError                    your call never ran
│   ├── CircuitOpenError             the circuit breaker is open
│   ├── BulkheadFullError            no permit was free
│   └── RateLimitedError             the limit is used up
├── DeadlineExceededError            (TimeoutError) the ambient deadline is over
├── CallTimeoutError                 (TimeoutError) a timeout of ours ended the call
├── PoolTimeoutError                 (TimeoutError) no database connection became free
├── NoUnitOfWorkError                (RuntimeError) a session was asked for outside a unit of work
├── UnexpectedRollbackError          a joined unit of work failed and its failure was swallowed
├── CommitOutcomeUnknownError        the connection was lost during COMMIT
├── IdempotencyKeyReusedError        (ValueError) a key of finished work was used for other work
├── QueryGuardError                  more statements ran than a guard allows, or one for each row
├── BatcherClosedError               (RuntimeError) a request came after `close()`
├── BatchReplyError                  a batch function broke its contract
├── EventNotSentError                (ConnectionError) a transport did not take an event
├── UnknownComponentError            (LookupError) no component has that name
└── ComponentCycleError              (RuntimeError) components need each other in a circle
```

Mistakes in a call to paintkit are `TypeError` (wrong kind) or `ValueError` (wrong value), raised at decoration or
construction. The errors of protected functions are never wrapped.
"""

from __future__ import annotations

from typing import Literal, Protocol

__all__ = [
    "BatchReplyError",
    "BatcherClosedError",
    "BulkheadFullError",
    "CallTimeoutError",
    "CircuitOpenError",
    "CommitOutcome",
    "CommitOutcomeUnknownError",
    "ComponentCycleError",
    "DeadlineExceededError",
    "EventNotSentError",
    "IdempotencyKeyReusedError",
    "NoUnitOfWorkError",
    "PaintkitError",
    "PoolTimeoutError",
    "QueryGuardError",
    "RateLimitedError",
    "RejectedError",
    "UnexpectedRollbackError",
    "UnknownComponentError",
]


class PaintkitError(Exception):
    """The root of all errors that paintkit raises by itself."""


class RejectedError(PaintkitError):
    """A policy refused the call: the protected function never ran.

    Args:
        policy: The name of the policy that refused.
        retry_after: Seconds until a new call has a chance, or `None` if that cannot be known.
        detail: What the policy knows beyond that, as text.
    """

    _because = "refused the call"

    def __init__(self, policy: str, retry_after: float | None = None, detail: str = "") -> None:
        #: The name of the policy that refused.
        self.policy = policy
        #: Seconds (>= 0) until a new call has a chance, or `None`.
        self.retry_after = retry_after
        #: Further evidence as text; never a live exception, which would keep its frames alive.
        self.detail = detail
        # The arguments, not the sentence: an error must survive pickling between processes.
        super().__init__(policy, retry_after, detail)

    def __str__(self) -> str:
        sentence = f"{self.policy!r} {self._because}"
        if self.retry_after is not None:
            sentence += f"; retry after {self.retry_after:.3g} s"
        return f"{sentence} ({self.detail})" if self.detail else sentence


class CircuitOpenError(RejectedError):
    """The circuit breaker is open, or all its probe permits are taken."""

    _because = "is open: calls are refused until it recovers"


class BulkheadFullError(RejectedError):
    """All permits of a bulkhead are taken and none became free in time."""

    _because = "is full: all its permits are taken"


class RateLimitedError(RejectedError):
    """A rate limit is used up and waiting was not allowed or could not help."""

    _because = "is used up: the rate limit is reached"


class DeadlineExceededError(PaintkitError, TimeoutError):
    """The ambient deadline was over before paintkit started an attempt or a wait."""


class CallTimeoutError(PaintkitError, TimeoutError):
    """A `timeout` policy ended the call; the callee's own `TimeoutError` passes unchanged."""


class PoolTimeoutError(PaintkitError, TimeoutError):
    """No database connection became free within the pool's timeout."""


class NoUnitOfWorkError(PaintkitError, RuntimeError):
    """A session was asked for where no unit of work is open."""


class UnexpectedRollbackError(PaintkitError):
    """An inner boundary failed, the failure was swallowed, and the unit of work was rolled back."""


CommitOutcome = Literal["committed", "aborted", "unknown"]


class _Inquiry(Protocol):
    def resolve(self) -> CommitOutcome: ...

    async def aresolve(self) -> CommitOutcome: ...


class CommitOutcomeUnknownError(PaintkitError):
    """The connection was lost during COMMIT: the work may or may not be stored.

    Args:
        message: What happened.
        inquiry: Who can be asked; `None` if nobody can.
    """

    def __init__(self, message: str, inquiry: _Inquiry | None = None) -> None:
        super().__init__(message)
        self._inquiry = inquiry

    def resolve(self) -> CommitOutcome:
        """Ask the server now what became of the work.

        Returns:
            `"committed"`, `"aborted"`, or `"unknown"`: it does not know yet, cannot be reached, or was never able to tell
            (it is not PostgreSQL, or `resolve_commits` is off).
        """
        return "unknown" if self._inquiry is None else self._inquiry.resolve()

    async def aresolve(self) -> CommitOutcome:
        """Do as `resolve` does, after an `async` unit of work."""
        return "unknown" if self._inquiry is None else await self._inquiry.aresolve()

    def __reduce__(self) -> tuple[type[CommitOutcomeUnknownError], tuple[object, ...]]:
        return type(self), self.args  # in another process there is nobody to ask


class IdempotencyKeyReusedError(PaintkitError, ValueError):
    """An idempotency key under which work was done came back with other work."""


class QueryGuardError(PaintkitError):
    """More statements ran than a query guard allows, or one for each row.

    Args:
        message: How many ran, how many are allowed, and which.
        statements: What ran, in order; each has `sql`, `site` and `kind`.
        repetitions: What ran once for each row; each has `kind`, `sql`, `site`, `times` and `fix`.
    """

    def __init__(
        self, message: str, statements: tuple[object, ...] = (), repetitions: tuple[object, ...] = ()
    ) -> None:
        super().__init__(message, statements, repetitions)
        #: What ran, in order.
        self.statements = statements
        #: What ran once for each row.
        self.repetitions = repetitions

    def __str__(self) -> str:
        return str(self.args[0])


class BatcherClosedError(PaintkitError, RuntimeError):
    """A request reached a `RequestBatcher` after `close()`."""


class BatchReplyError(PaintkitError):
    """A batch function replied with something other than one result for each request."""


class EventNotSentError(PaintkitError, ConnectionError):
    """A transport did not take an event: publish it again later, or through an outbox.

    Args:
        transport: The name of the transport.
        event_type: The type of the event.
        event_id: Its id, by which it is known should it arrive all the same.
        detail: Why.
    """

    def __init__(self, transport: str, event_type: str, event_id: str, detail: str) -> None:
        super().__init__(transport, event_type, event_id, detail)
        #: The name of the transport.
        self.transport = transport
        #: The type of the event.
        self.event_type = event_type
        #: The id of the event.
        self.event_id = event_id
        #: Why it was not sent.
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.transport!r} did not take {self.event_type!r} ({self.event_id}): {self.detail}"


class UnknownComponentError(PaintkitError, LookupError):
    """No component is registered under that name."""


class ComponentCycleError(PaintkitError, RuntimeError):
    """Components need each other in a circle; the message shows the path."""
