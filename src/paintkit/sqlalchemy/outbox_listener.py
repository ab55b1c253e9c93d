"""Wakes a relay when an event is committed: PostgreSQL's NOTIFY, where psycopg 3 can listen to it.

It is no more than a wake-up: if the connection is lost, or there is none, the relay finds everything by polling.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from paintkit import ambient, clock, observations

if TYPE_CHECKING:
    import asyncio

    from sqlalchemy import Connection

    from paintkit.sqlalchemy.outbox import Outbox

__all__ = ["alisten", "listen"]

_log: Final = logging.getLogger("paintkit.sqlalchemy")

# Seconds between two looks at whether to go on listening.
_GLANCE: Final = 0.25


@contextlib.contextmanager
def listen(outbox: Outbox, wake: Callable[[], None]) -> Iterator[None]:
    """Call `wake` for every notification while the block is open, in a thread and on a connection of its own."""
    if not _can_listen(outbox):
        yield
        return
    over = threading.Condition()
    listener = _Listener(outbox, wake, over)
    thread = threading.Thread(
        target=ambient.detached().run,
        args=(listener.run,),
        name=f"paintkit-outbox-{outbox.name}-listener",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        with over:
            listener.is_over = True
            over.notify()
        thread.join()


class _Listener:
    def __init__(self, outbox: Outbox, wake: Callable[[], None], over: threading.Condition) -> None:
        self._outbox = outbox
        self._wake = wake
        self._over = over
        self.is_over = False  # guarded by `_over`

    def run(self) -> None:
        while not self.is_over:
            try:
                self._listen()
            except Exception as error:  # noqa: BLE001 - whatever ends it, polling goes on, and so does this
                _lost(self._outbox, error)
                with self._over:
                    if not self.is_over:
                        clock.wait(self._over, self._outbox.poll_interval)

    def _listen(self) -> None:
        engine = self._outbox.db.engine
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            driver: Any = connection.connection.driver_connection
            connection.detach()  # it stays for long: the pool may fill its place
            connection.exec_driver_sql(f'LISTEN "{self._outbox.store.channel}"')
            self._wake()  # for what was committed while nobody listened
            while not self.is_over:
                for _ in driver.notifies(timeout=_GLANCE, stop_after=1):
                    self._wake()


@contextlib.asynccontextmanager
async def alisten(outbox: Outbox, wake: Callable[[], None]) -> AsyncIterator[None]:
    """Do as `listen` does, in a task."""
    if not _can_listen(outbox):
        yield
        return
    import asyncio

    over = asyncio.Event()
    task = asyncio.create_task(_alisten_again(outbox, wake, over))
    try:
        yield
    finally:
        over.set()  # and no cancellation, which would leave the connection in the middle of something
        await asyncio.wait((task,))


async def _alisten_again(outbox: Outbox, wake: Callable[[], None], over: asyncio.Event) -> None:
    import asyncio

    while not over.is_set():
        try:
            await _alisten(outbox, wake, over)
        except Exception as error:  # noqa: BLE001 - as above
            _lost(outbox, error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), outbox.poll_interval)


async def _alisten(outbox: Outbox, wake: Callable[[], None], over: asyncio.Event) -> None:
    from sqlalchemy import text

    engine = outbox.db.async_engine.execution_options(isolation_level="AUTOCOMMIT")
    driver: Any = None
    try:
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            await connection.run_sync(_detach)
            await connection.execute(text(f'LISTEN "{outbox.store.channel}"'))
            wake()  # as above
            while not over.is_set():
                async for _ in driver.notifies(timeout=_GLANCE, stop_after=1):
                    wake()
    finally:
        if driver is not None:
            await (
                driver.close()
            )  # SQLAlchemy lets go of a detached one, and closes it only where nothing is awaited


def _detach(connection: Connection) -> None:
    connection.detach()


def _can_listen(outbox: Outbox) -> bool:
    dialect = outbox.db.engine.dialect
    return dialect.name == "postgresql" and dialect.driver in {"psycopg", "psycopg_async"}


def _lost(outbox: Outbox, error: Exception) -> None:
    _log.warning("%s: no notifications for now, polling goes on: %s", outbox.name, error)
    observations.emit("outbox.listener_lost", outbox.name, error=error)
