"""A database of both colours: one scenario, written once, runs over blocking and asyncio engines."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import URL, Engine, String, create_engine, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from paintkit._runtime import drive
from paintkit.sqlalchemy import DatabaseConnectionManager


class Base(DeclarativeBase):
    """The tables of these tests."""


class Paint(Base):
    """One row, by a name that is there once."""

    __tablename__ = "paint"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    stock: Mapped[int] = mapped_column(default=0)
    edits: Mapped[int] = mapped_column(default=0, onupdate=text("edits + 1"))


class House:
    """A manager, and what a scenario does with it in the manager's colour.

    A scenario is a coroutine. Over a blocking engine nothing in it suspends, so it is driven without an event loop.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self.db = DatabaseConnectionManager(url, **options)
        self.is_postgres = self.db.engine.dialect.name == "postgresql"

    def run(self, scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a scenario over empty tables, and close the pool in the same event loop."""
        return (
            asyncio.run(self._furnished(scenario)) if self.db.is_async else drive(self._furnished(scenario))
        )

    async def _furnished(self, scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        await self._on_engine(Base.metadata.drop_all)
        await self._on_engine(Base.metadata.create_all)
        try:
            return await scenario()
        finally:
            assert self.db.get_connection_stats()["checked_out"] == 0, "a connection was not given back"
            if self.db.is_async:
                await self.db.aclose()
            else:
                self.db.close()

    async def _on_engine(self, act: Callable[[Engine], object]) -> None:
        if self.db.is_async:
            async with self.db.async_engine.begin() as connection:
                await connection.run_sync(act)
        else:
            act(self.db.engine)

    @property
    def session(self) -> Any:
        """The open session, of the manager's colour."""
        return self.db.async_session if self.db.is_async else self.db.session

    @asynccontextmanager
    async def unit(self, **options: Any) -> AsyncIterator[Any]:
        """Open a boundary as a block."""
        if self.db.is_async:
            async with self.db.unit_of_work(**options) as session:
                yield session
        else:
            with self.db.unit_of_work(**options) as session:
                yield session

    def function(self, body: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        """Return a coroutine function as a function of the manager's colour."""
        if self.db.is_async:
            return body

        @functools.wraps(body)
        def blocking(*args: Any, **kwargs: Any) -> Any:
            return drive(body(*args, **kwargs))

        del blocking.__wrapped__
        return blocking

    async def settle(self, result: Any) -> Any:
        """Await what the async colour returned; the blocking one has returned a result."""
        return await result if isinstance(result, Awaitable) else result

    async def add(self, name: str) -> Paint:
        """Add a row in the open unit of work."""
        paint = Paint(name=name)
        self.session.add(paint)
        await self.flush()
        return paint

    async def flush(self) -> None:
        await self.settle(self.session.flush())

    async def execute(self, statement: Any) -> Any:
        return await self.settle(self.session.execute(statement))

    async def stored(self) -> list[str]:
        """Return the names that a stranger to all units of work sees, in order."""
        query = select(Paint.name).order_by(Paint.name)
        if self.db.is_async:
            engine: AsyncEngine = self.db.async_engine
            async with engine.connect() as connection:
                return list((await connection.execute(query)).scalars())
        with self.db.engine.connect() as connection:
            return list(connection.execute(query).scalars())


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what our part has logged: threads that other tests have left may have something to say, too."""
    return [record for record in caplog.records if record.name == "paintkit.sqlalchemy"]


def admin_engine(url: str | URL) -> Engine:
    """Return an engine that creates and drops databases."""
    return create_engine(url, isolation_level="AUTOCOMMIT")
