"""What comes of a batch: one answer for each request, from a reply that may be anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypedDict, TypeVar

from paintkit import observations
from paintkit._locks import new_lock
from paintkit._runtime import Failure, Runtime, Success
from paintkit.errors import BatchReplyError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Answer", "BatchFunction", "BatchTotals", "SharedFailure"]

Request = TypeVar("Request")
Result = TypeVar("Result")


class SharedFailure:
    """An error that several callers may raise, each with its first traceback."""

    __slots__ = ("_traceback", "error")

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self._traceback = _first_traceback(error)

    def unwrap(self) -> NoReturn:
        """Raise the error."""
        try:
            raise self.error.with_traceback(self._traceback)
        finally:
            del self  # the error's frames must not lead back to the error: only the collector could free it


Answer = Success[Result] | SharedFailure


class BatchTotals(TypedDict):
    """What came of the batches so far."""

    batches: int
    failed_batches: int
    failed_requests: int
    largest_batch: int


class BatchFunction(Generic[Request, Result]):
    """Asks a batch function, of either colour, and gives each request its answer.

    Args:
        process_batch: The user's function.
        dedupe: Whether equal requests are asked once and share their answer.
        name: What logs and observations call it.
    """

    def __init__(self, process_batch: Callable[[list[Request]], Any], *, dedupe: bool, name: str) -> None:
        self._process_batch = process_batch
        self._dedupe = dedupe
        self.name = name
        self._lock = new_lock()  # guards the totals
        self._batches = self._failed_batches = self._failed_requests = self._largest_batch = 0

    def totals(self) -> BatchTotals:
        """Return what came of the batches so far, as plain data."""
        with self._lock:
            return {
                "batches": self._batches,
                "failed_batches": self._failed_batches,
                "failed_requests": self._failed_requests,
                "largest_batch": self._largest_batch,
            }

    async def answers(self, requests: list[Request], runtime: Runtime) -> list[Answer[Result]]:
        """Ask once for all requests; the answers are in their order."""
        asked = list(dict.fromkeys(requests)) if self._dedupe else requests
        outcome = await runtime.attempt(lambda: self._process_batch(list(asked)))
        answers = self._given_out(outcome, len(asked))
        if self._dedupe:
            by_request = dict(zip(asked, answers, strict=True))
            answers = [by_request[request] for request in requests]
        self._count(answers)
        return answers

    def interrupted(self, requests: int) -> list[Answer[Result]]:
        """Return the answers of a batch of which nobody knows how far it came."""
        reason = f"what ran this batch of {self.name} was interrupted; how far it came is unknown"
        answers = self._failed([BatchReplyError(reason) for _ in range(requests)])
        self._count(answers)
        return answers

    def _given_out(self, outcome: Success[Any] | Failure, asked: int) -> list[Answer[Result]]:
        if isinstance(outcome, Failure):
            return self._failed([outcome.error] * asked)
        mistake = _mistake_in(outcome.value, asked)
        if mistake is None:
            return [
                SharedFailure(one) if isinstance(one, BaseException) else Success(one)
                for one in outcome.value
            ]
        return self._failed([BatchReplyError(mistake) for _ in range(asked)])

    def _failed(self, errors: list[Exception]) -> list[Answer[Result]]:
        with self._lock:
            self._failed_batches += 1
        observations.emit("request_batcher.batch_failed", self.name, error=errors[0], requests=len(errors))
        return [SharedFailure(error) for error in errors]

    def _count(self, answers: list[Answer[Result]]) -> None:
        with self._lock:
            self._batches += 1
            self._failed_requests += sum(isinstance(one, SharedFailure) for one in answers)
            self._largest_batch = max(self._largest_batch, len(answers))


def _first_traceback(error: BaseException) -> TracebackType | None:
    """Return where `error` came from, without the frames that earlier callers of ours have put before that.

    A batch function may return one object again and again; its traceback must not grow with every caller who raises it.
    """
    first = entry = error.__traceback__
    while entry is not None:
        if entry.tb_frame.f_code is SharedFailure.unwrap.__code__:
            first = entry.tb_next
        entry = entry.tb_next
    return first


def _mistake_in(reply: object, asked: int) -> str | None:
    if not isinstance(reply, Sequence) or isinstance(reply, str | bytes | bytearray):
        return (
            f"process_batch must return a list with one result for each request, not {type(reply).__name__}"
        )
    if len(reply) != asked:
        return (
            f"process_batch must return one result for each request: it got {asked} and returned {len(reply)}"
        )
    return None
