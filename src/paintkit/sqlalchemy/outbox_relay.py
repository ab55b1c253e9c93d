"""The relay of an outbox: claims events, lets their handlers handle them, and settles what came of it, again and again."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from paintkit import _locks, ambient, clock, observations
from paintkit._runtime import Handover, drive
from paintkit._words import counted
from paintkit.sqlalchemy.outbox_batch import Batch
from paintkit.sqlalchemy.outbox_listener import alisten, listen

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from paintkit.envelope import Receiver
    from paintkit.errors import CallTimeoutError
    from paintkit.sqlalchemy.outbox import Outbox
    from paintkit.sqlalchemy.outbox_hands import Hands
    from paintkit.sqlalchemy.outbox_store import Claim, Claimed, Settlement

__all__ = ["Relay"]

_log: Final = logging.getLogger("paintkit.sqlalchemy")

# Seconds after which what is done is settled, though there is more to do in the batch.
_SETTLE_EVERY: Final = 1.0


class Relay:
    """Delivers the events of an outbox to the handlers of its bus in this process; any number of relays share the work.

    Made by `Outbox.relay()`. As a block it runs in a thread of its own: `with outbox.relay():`. `run()` blocks until
    `stop()` is called, from another thread or a signal handler; `run_once()` does what there is to do at this moment. The
    twins `arun()` and `arun_once()` are for the outbox of an async manager, `async with outbox.relay():` is a task.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._lock = _locks.new_lock()
        self._wake = Handover()
        self._stopping = False
        self._failed = False
        self._ready = False
        self._lost_first = False
        self._thread: threading.Thread | None = None
        self._task: Any = None

    # In blocking code.

    def run_once(self) -> int:
        """Deliver what is due, one batch after the other, until nothing is; return how many events were claimed.

        Raises:
            TypeError: The outbox has an async manager.
            RuntimeError: The bus has no handler, or the outbox has no bus.
        """
        with _alone():
            return drive(self._all_there_is(self._outbox.hands(is_async=False)))

    def run(self) -> None:
        """Deliver until `stop()` is called; a database that is away is waited for.

        Raises:
            TypeError: The outbox has an async manager.
            RuntimeError: The bus has no handler, or the outbox has no bus.
        """
        hands = self._outbox.hands(is_async=False)
        self._outbox.receivers()  # none is a mistake to tell now
        self._outbox.know(self)
        with listen(self._outbox, self.wake), _alone():
            drive(self._until_stopped(hands))

    def start(self) -> Self:
        """Let `run()` run in a daemon thread; a second call does nothing."""
        self._outbox.hands(is_async=False)
        self._outbox.receivers()
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # it does not live on in a forked child
                self._stopping = False
                self._thread = threading.Thread(
                    target=self._run_on, name=f"paintkit-outbox-{self._outbox.name}", daemon=True
                )
                self._thread.start()
        return self

    def _run_on(self) -> None:
        """Run in a thread where nobody hears of an interrupt: a handler's `sys.exit()` must not end all deliveries here.

        What was claimed is lost with its lease, as if the process had ended.
        """
        while not self._stopping:
            try:
                self.run()
            except BaseException:  # noqa: BLE001 - see above
                _log.exception("%s: the relay was interrupted, and begins anew", self._outbox.name)
                self._wake = wake = Handover()
                if not self._is_stopping():
                    wake.wait(self._outbox.poll_interval)

    def stop(self) -> None:
        """Let `run()` or `arun()` return as soon as the handler that runs has done so; may be called from anywhere."""
        self._stopping = True
        self.wake()

    def close(self) -> None:
        """Stop, and wait for the thread; events that were claimed and not handled are left to others at once."""
        self.stop()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    # Under asyncio.

    async def arun_once(self) -> int:
        """Do as `run_once` does, for an async manager; handlers may be `async def`."""
        with _alone():
            return await self._all_there_is(self._outbox.hands(is_async=True))

    async def arun(self) -> None:
        """Do as `run` does, for an async manager."""
        hands = self._outbox.hands(is_async=True)
        self._outbox.receivers()
        self._outbox.know(self)
        async with alisten(self._outbox, self.wake):
            with _alone():
                await self._until_stopped(hands)

    async def aclose(self) -> None:
        """Stop, and wait for the task of `async with`."""
        self.stop()
        task, self._task = self._task, None
        if task is not None:
            await task

    async def __aenter__(self) -> Self:
        import asyncio

        self._outbox.hands(is_async=True)
        self._outbox.receivers()
        self._stopping = False
        self._task = asyncio.create_task(self.arun())
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self.aclose()

    # In both.

    def wake(self) -> None:
        """There may be something to do; after a failure the pause is kept all the same."""
        if self._stopping or not self._failed:
            self._wake.give()

    async def _until_stopped(self, hands: Hands) -> None:
        while not self._stopping:
            self._wake = wake = Handover()  # before the look, so that nothing is missed after it
            if self._is_stopping():
                return
            claimed = await self._attempt(hands)
            if not claimed:
                await hands.runtime.receive(wake, self._outbox.poll_interval)
            self._failed = False

    async def _attempt(self, hands: Hands) -> int:
        try:
            return await self._cycle(hands)
        except Exception as error:  # noqa: BLE001 - a relay outlives whatever happens to its database
            self._failed = True  # until the pause is over
            self._outbox.tally.add("errors")
            _log.exception("%s: the relay could not go on and tries again", self._outbox.name)
            observations.emit("outbox.relay_failed", self._outbox.name, error=error)
            return 0

    def _is_stopping(self) -> bool:
        return self._stopping

    async def _all_there_is(self, hands: Hands) -> int:
        self._outbox.receivers()
        total = 0
        while not self._stopping and (claimed := await self._cycle(hands)):
            total += claimed
        return total

    async def _cycle(self, hands: Hands) -> int:
        """Claim one batch, handle it and settle it; return how many events it held."""
        outbox = self._outbox
        if not self._ready:
            await hands.transact(outbox.store.prepare)
            self._ready = True
        if outbox.looks_first and not await hands.transact(outbox.store.has_work, read_only=True):
            return 0
        claim = await hands.transact(
            functools.partial(_claim, outbox, self._lost_first), isolation=outbox.isolation
        )
        self._lost_first = not self._lost_first
        if not claim.events:
            return 0
        batch = Batch(claim.events, outbox.receivers(), outbox.max_attempts, outbox.backoff)
        work = _Work(outbox, claim, batch, self._is_stopping)
        with _held(outbox, claim):
            await hands.run(work.steps, work.hung)
            await work.finish(hands)
        return len(claim.events)


@contextmanager
def _alone() -> Iterator[None]:
    """Leave the unit of work and the deadline of whoever asks for a delivery: it is no part of them."""
    unit, deadline = ambient.unit_of_work.set(None), ambient.deadline.set(None)
    try:
        yield
    finally:
        ambient.unit_of_work.reset(unit)
        ambient.deadline.reset(deadline)


@contextmanager
def _held(outbox: Outbox, claim: Claim) -> Iterator[None]:
    """Count the events of a claim as held here, and note how long those waited that nobody has tried."""
    for one in claim.events:
        if not one.event.attempts:
            # A publisher whose clock is fast has published in what is the future here.
            outbox.lags.record(max(0.0, claim.at - one.event.occurred_at.timestamp()))
    outbox.tally.add("in_flight", len(claim.events))
    try:
        yield
    finally:
        outbox.tally.add("in_flight", -len(claim.events))


def _claim(outbox: Outbox, lost_first: bool, session: Session) -> Claim:
    return outbox.store.claim(session, most=outbox.batch_size, lease=outbox.lease, lost_first=lost_first)


class _Work:
    """The work on one claim, gone on with by one thread after another if handlers hang."""

    def __init__(self, outbox: Outbox, claim: Claim, batch: Batch, is_stopping: Callable[[], bool]) -> None:
        self._outbox = outbox
        self._claim = claim
        self._batch = batch
        self._is_stopping = is_stopping
        self._is_lost = False
        self._settled = self._held = clock.now()
        self._over: list[Settlement] = []

    async def steps(self, hands: Hands) -> None:
        """Let everybody handle what they want, in order."""
        while self._batch and not self._is_lost and not self._is_stopping():
            chunk = self._batch.head(self._outbox.group)
            for receiver, events in self._batch.calls(chunk):
                if not await self._keep(hands):
                    return
                self._note(receiver, events, await hands.call(receiver, events))
            self._over += self._batch.take(chunk)

    def hung(
        self, receiver: Receiver, events: Sequence[Claimed], one: Claimed, error: CallTimeoutError
    ) -> None:
        """A receiver did not come back from one of several events."""
        if len(events) > 1:
            self._batch.note(receiver, events, error)
        self._note(receiver, [one], error)

    async def finish(self, hands: Hands) -> None:
        """Settle all that is left; what was not tried is left to others at once."""
        self._over += self._batch.take_all()
        await self._settle(hands)

    def _note(self, receiver: Receiver, events: Sequence[Claimed], error: Exception | None) -> None:
        self._batch.note(receiver, events, error)
        if error is None or len(events) == 1:
            self._outbox.tally.add("delivered" if error is None else "failed", len(events))
            for one in events:
                receiver.settle(one.event, error)

    async def _keep(self, hands: Hands) -> bool:
        """Settle what is over from time to time, and hold the lease on the rest; False if it is lost."""
        now = clock.now()
        if now >= self._held + self._outbox.lease / 4 or (
            self._over and now >= self._settled + _SETTLE_EVERY
        ):
            await self._settle(hands, renew=self._outbox.lease)
            self._settled = self._held = now
        return not self._is_lost

    async def _settle(self, hands: Hands, renew: float | None = None) -> None:
        over, self._over = self._over, []
        outbox = self._outbox
        late = await hands.transact(
            lambda session: outbox.store.settle(session, self._claim, over, len(self._batch), renew)
        )
        if late:
            self._is_lost = True
            outbox.tally.add("late", late)
            _log.warning(
                "%s: %s back after the lease was over: ignored",
                outbox.name,
                counted(late, "event came", "events came"),
            )
            observations.emit("outbox.late", outbox.name, events=late)
        for one in over:
            _tell(outbox, one)


def _tell(outbox: Outbox, one: Settlement) -> None:
    if one.error is None:
        return
    name = outbox.name
    event = one.claimed.event
    details = {
        "event_id": event.id,
        "event_type": event.type,
        "attempts": one.attempts,
        "error": one.error,
    }
    if one.delay is None:
        outbox.tally.add("dead")
        _log.error("%s: event %s (%s) is given up: %s", name, event.id, event.type, one.error)
        observations.emit("outbox.dead", name, **details)
    else:
        observations.emit("outbox.retrying", name, delay=one.delay, **details)
