"""What has come of the events that a relay has claimed, and what follows for each: no clock, no database, no thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from paintkit._arguments import told
from paintkit._wrap import name_of
from paintkit.sqlalchemy.outbox_store import LOST, Claimed, Settlement

if TYPE_CHECKING:
    from paintkit.backoff import Schedule
    from paintkit.envelope import Receiver

__all__ = ["Batch"]


class Batch:
    """The progress of claimed events; whoever goes on with it finds it where the one before has left it.

    Args:
        events: The events, in order.
        receivers: Who may want them, in order.
        max_attempts: After so many failures an event is given up.
        backoff: How long to wait after each failure.
    """

    def __init__(
        self, events: Sequence[Claimed], receivers: Sequence[Receiver], max_attempts: int, backoff: Schedule
    ) -> None:
        self._open = list(events)
        self._receivers = receivers
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._outcomes: dict[int, dict[str, Exception | None]] = {one.seq: {} for one in events}
        self._alone = {one.seq for one in events if one.event.attempts}
        self._blocked: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    def head(self, size: int) -> list[Claimed]:
        """Return the events that come next: several, or one that has to be handled alone."""
        chunk: list[Claimed] = []
        for one in self._open[:size]:
            if one.seq in self._alone and chunk:
                break
            chunk.append(one)
            if one.seq in self._alone:
                break
        return chunk

    def calls(self, chunk: Sequence[Claimed]) -> Iterator[tuple[Receiver, list[Claimed]]]:
        """Yield who is to handle which of these events now, together where that is allowed.

        To be taken one by one: what comes of a call decides about the next.
        """
        for receiver in self._receivers:
            wanted = [one for one in chunk if self._wants(receiver, one)]
            if (
                len(wanted) > 1
                and not receiver.idempotent
                and not any(one.seq in self._alone for one in wanted)
            ):
                yield receiver, wanted
            for one in wanted:
                if self._wants(receiver, one):  # still
                    yield receiver, [one]

    def _wants(self, receiver: Receiver, one: Claimed) -> bool:
        return (
            one.event.attempts < self._max_attempts  # or else it was lost once too often
            and one.event.ordering_key not in self._blocked
            and receiver.name not in one.handled
            and receiver.name not in self._outcomes[one.seq]
            and receiver.wants(one.event.type)
        )

    def note(self, receiver: Receiver, events: Sequence[Claimed], error: Exception | None) -> None:
        """A call is over. What several events failed at together counts for none of them: each is tried alone."""
        if error is not None and len(events) > 1:
            self._alone.update(one.seq for one in events)
            return
        for one in events:
            self._outcomes[one.seq][receiver.name] = error
            if error is not None and one.event.ordering_key is not None and not self._gives_up(one):
                self._blocked.add(one.event.ordering_key)

    def take(self, chunk: Sequence[Claimed]) -> list[Settlement]:
        """Return what follows for events whose calls are over, and be done with them."""
        taken = {one.seq for one in chunk}
        self._open = [one for one in self._open if one.seq not in taken]
        return [self._settlement(one) for one in chunk]

    def take_all(self) -> list[Settlement]:
        """Return what follows for all that is left, whether it was tried or not."""
        return self.take(self._open)

    def _settlement(self, one: Claimed) -> Settlement:
        outcomes, attempts = self._outcomes[one.seq], one.event.attempts
        if attempts >= self._max_attempts:
            return Settlement(one, LOST, attempts)
        errors = [
            f"{name}: {name_of(type(error))}: {told(error)}"
            for name, error in outcomes.items()
            if error is not None
        ]
        kept = [each.name for each in self._receivers if each.idempotent and self._succeeded(each, one)]
        if errors:
            delay = None if self._gives_up(one) else self._delay(attempts)
            return Settlement(one, "\n".join(errors), attempts + 1, delay, kept)
        if any(self._is_due(each, one) for each in self._receivers):
            return Settlement(one, handled=kept, untried=True)
        return Settlement(one)

    def _is_due(self, receiver: Receiver, one: Claimed) -> bool:
        known = one.handled | self._outcomes[one.seq].keys()
        return receiver.wants(one.event.type) and receiver.name not in known

    def _succeeded(self, receiver: Receiver, one: Claimed) -> bool:
        return self._outcomes[one.seq].get(receiver.name, one) is None

    def _gives_up(self, one: Claimed) -> bool:
        return one.event.attempts + 1 >= self._max_attempts

    def _delay(self, attempts: int) -> float:
        """Return the delay after so many failures before this one."""
        delays = self._backoff.delays()
        delay = next(delays, 0.0)
        for _ in range(attempts):
            delay = next(delays, delay)
        return delay
