"""The database of an application: its engine, its sessions, its units of work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast, overload

from sqlalchemy import Connection, Engine
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from paintkit import _arguments, ambient
from paintkit._locks import new_lock
from paintkit.errors import NoUnitOfWorkError
from paintkit.sqlalchemy import engines
from paintkit.sqlalchemy.binds import Binds
from paintkit.sqlalchemy.boundaries import Boundary
from paintkit.sqlalchemy.commits import CommitResolver
from paintkit.sqlalchemy.decorating import bound, decorate
from paintkit.sqlalchemy.holders import PoolWatch
from paintkit.sqlalchemy.options import Isolation, Options, Propagation
from paintkit.sqlalchemy.own_tables import explain_missing
from paintkit.sqlalchemy.pool import PoolConfig
from paintkit.sqlalchemy.queues import ObservedPool
from paintkit.sqlalchemy.registry import managers
from paintkit.sqlalchemy.sessions import ReadSession, UnitSession
from paintkit.sqlalchemy.sizing import Finding, findings
from paintkit.sqlalchemy.sources import AppSettings, FlaskApp, FlaskExtension, is_flask, is_flask_extension
from paintkit.sqlalchemy.units import UnitOfWork, watch
from paintkit.sqlalchemy.urls import is_async, normalized_url, pool_name

if TYPE_CHECKING:
    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

    from paintkit.telemetry import Metric
    from paintkit.typing import Decorator, P, R, Seconds

__all__ = ["DatabaseConnectionManager"]


class DatabaseConnectionManager:
    """One database: the pool of its connections, and the boundaries of its units of work.

    Args:
        source: A URL (`postgres://` is understood), an `Engine`, an `AsyncEngine`, or a Flask app that is configured with
            `SQLALCHEMY_DATABASE_URI` and, if you like, `SQLALCHEMY_ENGINE_OPTIONS`; or, in an app context, the `SQLAlchemy`
            object of Flask-SQLAlchemy or Flask-SQLAlchemy-Lite, whose default engine is then used. A manager has one colour: async for an
            `AsyncEngine` or the URL of an async-only driver, else blocking.
        pool: The pool's options, default `PoolConfig()`; not with an engine, which has its pool already.
        engine_options: Further options for `create_engine`; they win over those of `pool`. What the pool's class does not
            understand is left out.
        resolve_commits: On PostgreSQL: if the connection is lost during COMMIT, ask the server what became of the work, for
            up to 5 seconds. Costs every unit of work that wrote one round trip more. Elsewhere it has no effect.

    Raises:
        TypeError: `source` is none of these.
        ValueError: The URL is wrong or missing, its driver is not installed, or an engine came with pool options, or commits
            every statement by itself (AUTOCOMMIT).

    Example:
        >>> import sqlalchemy
        >>> db = DatabaseConnectionManager("sqlite://")
        >>> with db.unit_of_work() as session:
        ...     session.scalar(sqlalchemy.text("select 40 + 2"))
        42
        >>> db.close()
    """

    def __init__(
        self,
        source: str | URL | Engine | AsyncEngine | FlaskApp | FlaskExtension,
        *,
        pool: PoolConfig | None = None,
        engine_options: Mapping[str, Any] | None = None,
        resolve_commits: bool = False,
    ) -> None:
        _refuse_other_pools(pool)
        self._resolve_commits = _arguments.flag("resolve_commits", resolve_commits)
        self._resolver: CommitResolver | None = None
        self._creating = new_lock()
        self._engine: Engine | None = None
        self._async_engine: AsyncEngine | None = None
        self._watch = PoolWatch()
        self._settings: AppSettings | None = None
        self._binds = Binds()
        self._pool = pool or PoolConfig()
        self._options = _checked(engine_options)
        # How `db.session` finds a session outside a unit of work: an app that is attached says so.
        self._read_session: Callable[[], ReadSession | None] = _no_session
        self._open_reader: Callable[[], ReadSession | None] = _no_session
        # How the session of a unit of work is made: that of a Flask extension's manager is one of theirs, too.
        self._make_session: Callable[[Engine], UnitSession] = _unit_session
        extension = is_flask_extension(source)
        made = cast(FlaskExtension, source).engine if extension else source
        engine = engines.sync_engine(made)
        if engine is not None:
            if pool is not None or engine_options:
                raise ValueError(
                    "an engine has its pool already: give pool options to create_engine, or pass the URL"
                )
            self.is_async = engine is not made
            self._adopt(cast("Engine | AsyncEngine", made))
        elif is_flask(source):
            self._configure_from(cast(FlaskApp, source))
        else:
            self._url = normalized_url(cast(str, source))
            self._pool.as_engine_options(self._url)  # what does not fit is refused now, not at the first use
            self.is_async = is_async(self._url)
        if extension:
            self._join(source)
        managers.add(self)

    def __repr__(self) -> str:
        # SQLAlchemy hides the password. An engine is not created to be shown.
        return f"<DatabaseConnectionManager {(self._url if self._engine is None else self._engine.url)!r}>"

    # The engine and its pool.

    @property
    def engine(self) -> Engine:
        """The engine; of an async manager the blocking one within its `AsyncEngine`."""
        return self._engine or self._create_engine()

    @property
    def async_engine(self) -> AsyncEngine:
        """The engine of an async manager.

        Raises:
            TypeError: This manager is blocking.
        """
        engine = self.engine
        if self._async_engine is None:
            raise TypeError(f"this manager is blocking: use db.engine ({engine.url.drivername})")
        return self._async_engine

    def configure_pool(self, pool: PoolConfig | None = None) -> None:
        """Set the options of the pool, before the first use of the database.

        Of a Flask app the options become `SQLALCHEMY_ENGINE_OPTIONS`; what the app has set there by itself stays.

        Args:
            pool: The options, default those that the manager was given.

        Raises:
            RuntimeError: The engine exists already, so its pool cannot change any more.
            TypeError: `pool` is something else.
        """
        _refuse_other_pools(pool)
        if self._engine is not None:
            if pool is None:
                return
            raise RuntimeError(
                "the engine has its pool already: call configure_pool() before the database is used"
            )
        (pool or self._pool).as_engine_options(self._url)  # refuses what does not fit
        self._pool = pool or self._pool
        if self._settings is not None:
            self._settings.heed()
            self._settings.write(self._engine_options)

    def get_connection_stats(self) -> dict[str, int | float | None]:
        """Return what the pool holds at this moment.

        Returns:
            `size`, `checked_in`, `checked_out`, `overflow` (connections beyond `size`, never negative), `overflow_raw` (as
            SQLAlchemy counts it), `total`, `capacity` (`size` and the allowed overflow), `utilization` (of the capacity, 0
            to 1), `invalid` (connections found broken so far) and `leaked` (in use beyond `leak_threshold`, or left to the
            garbage collector, so far). Then, under the names of OpenTelemetry, `db.client.connection.` with `count.idle`,
            `count.used`, `idle.max`, `max`, `pending_requests` and `timeouts`. `None` stands where this class of pool knows
            nothing.
        """
        engine = self.engine
        return self._watch.read(engine.pool)

    def telemetry(self) -> Iterable[Metric]:
        """Return the pool's numbers under OpenTelemetry's names, for exporters; see `paintkit.telemetry`."""
        from paintkit import _catalogue

        stats = {**self.get_connection_stats(), **self._watch.times()}
        return _catalogue.POOL.read(pool_name(self.engine), stats)

    def check(self, *, workers: int | None = None, replicas: int = 1) -> list[Finding]:
        """Compare what all processes together may open with what the server allows.

        Args:
            workers: Processes of one replica; default the environment's `WEB_CONCURRENCY`, else 1.
            replicas: How many machines or containers run them.

        Returns:
            The findings, worst first; a database that cannot be reached is a finding, too.
        """
        if self.is_async:
            raise TypeError("this manager is async: await db.acheck()")
        with contextlib.ExitStack() as stack:
            return self._findings(lambda: stack.enter_context(self.engine.connect()), workers, replicas)

    async def acheck(self, *, workers: int | None = None, replicas: int = 1) -> list[Finding]:
        """Do as `check` does, for an async manager."""
        if not self.is_async:
            raise TypeError("this manager is blocking: db.check()")
        from sqlalchemy.util import greenlet_spawn

        def look() -> list[Finding]:
            with contextlib.ExitStack() as stack:
                return self._findings(
                    lambda: stack.enter_context(self.async_engine.sync_engine.connect()), workers, replicas
                )

        return await greenlet_spawn(look)

    def close(self) -> None:
        """Close the idle connections and take the manager out of use; open units of work keep theirs to the end."""
        if self.is_async:
            raise TypeError("this manager is async: await db.aclose()")
        managers.discard(self)
        if self._engine is not None:
            self._engine.dispose()

    async def aclose(self) -> None:
        """Do as `close` does, for an async manager."""
        if not self.is_async:
            raise TypeError("this manager is blocking: db.close()")
        managers.discard(self)
        if self._async_engine is not None:
            await self._async_engine.dispose()

    # Sessions and units of work.

    @property
    def session(self) -> Session:
        """The session of the open unit of work; in Flask, outside of one, a session that only reads.

        Raises:
            NoUnitOfWorkError: No unit of work is open here, or it belongs to another thread.
            TypeError: This manager is async.
        """
        if self.is_async:
            raise TypeError("this manager is async: use db.async_session")
        unit = self.open_unit()
        if unit is not None:
            return unit.session
        session = self._read_session()
        if session is None:
            raise NoUnitOfWorkError(
                "no unit of work is open: decorate the function with @db.with_database_session, or open one with "
                "`with db.unit_of_work() as session:`"
            )
        return session

    @property
    def async_session(self) -> AsyncSession:
        """The session of the open unit of work of an async manager.

        Raises:
            NoUnitOfWorkError: No unit of work is open here, or it belongs to another task.
            TypeError: This manager is blocking.
        """
        if not self.is_async:
            raise TypeError("this manager is blocking: use db.session")
        unit = self.open_unit()
        if unit is None:
            raise NoUnitOfWorkError(
                "no unit of work is open: decorate the function with @db.with_database_session, or open one with "
                "`async with db.unit_of_work() as session:`"
            )
        return unit.async_session  # type: ignore[no-any-return]  # typed Any, for the asyncio half loads late

    def unit_of_work(
        self,
        *,
        propagation: Propagation = "required",
        read_only: bool = False,
        isolation: Isolation | None = None,
        timeout: Seconds | None = None,
    ) -> Boundary:
        """Open a boundary as a block: `with db.unit_of_work() as session:`, or `async with` for an async manager.

        The outermost boundary owns the unit of work: it commits when the block ends, rolls back on any error
        (`BaseException` included), and closes the session. Objects stay readable after it.

        Args:
            propagation: What to do about a unit of work that is open already. `"required"` joins it: a failure inside then
                dooms the whole unit, even if it is caught. `"nested"` guards a savepoint in it, so that a failure inside
                may be caught. `"requires_new"` opens another one beside it, on a second connection; on PostgreSQL it waits at
                most 3 seconds for a lock, which the other may hold, unless a `lock_timeout` is set; on SQLite, which has one
                writer, it may only read once the other has begun. `"mandatory"` joins and
                raises if none is open. `"never"` raises if one is open, and runs without any: there is no session.
            read_only: Refuse writes; the transaction is READ ONLY on PostgreSQL and MariaDB. Of the outermost boundary only.
            isolation: The isolation level of the transaction, default the engine's.
            timeout: Seconds for everything inside: an ambient deadline, and PostgreSQL's `statement_timeout`.

        Raises:
            TypeError: An argument is of the wrong kind, or the block is of the other colour.
            ValueError: An argument is wrong, or the unit of work to be joined has another isolation level.
            NoUnitOfWorkError: `"mandatory"` found none.
            UnexpectedRollbackError: At the end: a failure inside was swallowed, so nothing was stored.
            CommitOutcomeUnknownError: At the end: the connection was lost during COMMIT, and nobody can tell what became of
                it. No hook has run; cached values that were to be invalidated are dropped all the same.
        """
        return Boundary(self, Options.checked(propagation, read_only, isolation, timeout, None))

    @overload
    def with_database_session(self, fn: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def with_database_session(
        self,
        /,
        *,
        propagation: Propagation = "required",
        read_only: bool = False,
        isolation: Isolation | None = None,
        timeout: Seconds | None = None,
        rollback_if: Callable[[Any], object] | None = None,
    ) -> Decorator: ...

    def with_database_session(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        propagation: Propagation = "required",
        read_only: bool = False,
        isolation: Isolation | None = None,
        timeout: Seconds | None = None,
        rollback_if: Callable[[Any], object] | None = None,
    ) -> Callable[..., Any]:
        """Run every call of a function in a unit of work: `@db.with_database_session`, bare or called.

        A generator's unit of work opens at its first item, ends when it is exhausted or closed, and is ambient only while
        its own code runs.

        Args:
            fn: The function, method or generator function, of the manager's colour.
            propagation: See `unit_of_work`, as for the others.
            read_only: See there.
            isolation: See there.
            timeout: See there.
            rollback_if: Tells from the result whether to roll back, quietly; default: a result whose `status_code` is 400
                or more, as of a Flask `Response`.

        Raises:
            TypeError: At decoration: the function is of the other colour, or an argument of the wrong kind.
            ValueError: At decoration: an argument is wrong.
        """
        options = Options.checked(propagation, read_only, isolation, timeout, rollback_if)
        opening = bound(self, options)
        if fn is not None:
            return decorate(fn, opening, is_async=self.is_async)

        def decorator(fn: Callable[P, R], /) -> Callable[P, R]:
            return decorate(fn, opening, is_async=self.is_async)

        return decorator

    def on_commit(self, action: Callable[[], object]) -> None:
        """Run `action` once the open unit of work is stored; at once if none is open.

        It runs after the real COMMIT, never after a savepoint, outside the unit of work and with its connection given
        back, in the order of registration. A rollback, be it of the savepoint around the call, forgets it. A failing
        action is logged.

        Args:
            action: Takes nothing; may be `async def` on an async manager, inside a unit of work.
        """
        unit = self.open_unit()
        if unit is None:
            _arguments.callback("action", action)()
        else:
            unit.defer(action if self.is_async else _arguments.callback("action", action))

    def init_app(self, app: FlaskApp) -> None:
        """Attach the manager to a Flask app: one read session for each app context, closed at its end.

        Raises:
            ValueError: The app has another manager.
        """
        from paintkit.sqlalchemy.flask import attach

        self._read_session, self._open_reader = attach(cast("Any", app), self, self._new_read_session)

    # What boundaries ask, see `paintkit.sqlalchemy.boundaries.Owner`, and the registry.

    def open_unit(self) -> UnitOfWork | None:
        """Return the innermost open unit of work of this manager, or `None`.

        Raises:
            NoUnitOfWorkError: It belongs to another thread or task.
        """
        unit = self.unit_around()
        if unit is not None:
            unit.check_owner()
        return unit

    def unit_around(self) -> UnitOfWork | None:
        """Do as `open_unit` does, whoever it belongs to."""
        unit = ambient.unit_of_work.get()
        while isinstance(unit, UnitOfWork):
            if unit.label is self and not unit.over:
                return unit
            unit = unit.outer
        return None

    def begin(self, options: Options, outer: UnitOfWork | None) -> UnitOfWork:
        """Begin a unit of work with a session of its own; no connection is taken before the first statement."""
        engine = self.engine
        if outer is not None and isinstance(engine.pool, StaticPool | SingletonThreadPool):
            raise ValueError(
                f"propagation='requires_new' needs a second connection, and a {type(engine.pool).__name__} has only one"
            )
        session, face = self._new_session(options)
        unit = UnitOfWork(
            session,
            ambient.unit_of_work.get(),
            label=self,
            read_only=options.read_only,
            isolation=options.isolation,
            timeout=options.timeout,
            beside=outer,
            resolver=self._resolver,
        )
        unit.async_session = face
        self._let_reader_rest(expire=False)
        return unit

    def ended(self, unit: UnitOfWork) -> None:
        """Let the read session see what a unit of work has stored."""
        if unit.wrote:
            self._let_reader_rest(expire=True)

    def leave_pool_to_parent(self) -> None:
        """Begin with a new pool and outside of every unit of work and read session, in a forked child."""
        unit = self.unit_around()
        while unit is not None:
            unit.leave_to_parent()
            _left_to_parent.append(unit)
            unit = self.unit_around()
        if self._open_reader() is not None:
            from paintkit.sqlalchemy.flask import give_up_session

            _left_to_parent.append(give_up_session())
        if self._engine is not None:
            _left_to_parent.append(self._engine.pool)
            self._watch.forget()
            self._engine.dispose(close=False)

    def _let_reader_rest(self, *, expire: bool) -> None:
        """Give the read session's connection back, so that a unit of work never waits for its own thread's other one."""
        session = self._open_reader()
        if session is not None:
            session.rest(expire=expire)

    def _new_read_session(self) -> ReadSession:
        return ReadSession(self._binds.for_reading(self.engine), self)

    def _new_session(self, options: Options) -> tuple[UnitSession, AsyncSession | None]:
        if not self.is_async:
            return self._make_session(self._binds.for_unit(self.engine, options)), None
        from sqlalchemy.ext.asyncio import AsyncSession

        bind = self._binds.for_unit(self.async_engine, options)
        face = AsyncSession(bind, sync_session_class=UnitSession, expire_on_commit=False)
        return cast("UnitSession", face.sync_session), face

    def _configure_from(self, app: FlaskApp) -> None:
        uri = app.config.get("SQLALCHEMY_DATABASE_URI")
        if not uri:
            raise ValueError("the app has no SQLALCHEMY_DATABASE_URI: set it before the manager is made")
        self._url = normalized_url(uri)
        self.is_async = is_async(self._url)
        self._settings = AppSettings(app)
        self.configure_pool()
        self.init_app(app)

    def _join(self, extension: object) -> None:
        from paintkit.sqlalchemy.flask import this_app
        from paintkit.sqlalchemy.flask_extensions import join

        self.init_app(this_app())
        self._make_session = join(extension, self)

    def _engine_options(self) -> dict[str, Any]:
        options = self._pool.as_engine_options(self._url)
        given = (self._settings.own if self._settings else {}) | self._options
        return options | given | {"connect_args": options["connect_args"] | given.get("connect_args", {})}

    def _create_engine(self) -> Engine:
        with self._creating:
            if self._engine is None and self._settings is not None:
                self._settings.heed()
            return self._engine or self._adopt(self._made_engine())

    def _made_engine(self) -> Engine | AsyncEngine:
        return engines.make_engine(self._url, self._engine_options(), silence=self._pool.silence_timeout)

    def _adopt(self, engine: Engine | AsyncEngine) -> Engine:
        if isinstance(engine, Engine):
            inner = engine
        else:
            inner, self._async_engine = engine.sync_engine, engine
        engines.refuse_autocommit(inner)
        engines.take_begin_control(inner)
        watch(inner)
        explain_missing(inner)
        if self._resolve_commits and inner.dialect.name == "postgresql":
            self._resolver = CommitResolver(inner, is_async=self.is_async)
        self._watch.leak_threshold = self._pool.leak_threshold
        self._watch.follow(inner)
        if isinstance(inner.pool, ObservedPool):
            inner.pool.observe(self._watch, self._pool.max_waiting)
        self._engine = inner
        return inner

    def _findings(
        self, connect: Callable[[], Connection], workers: int | None, replicas: int
    ) -> list[Finding]:
        if workers is None:
            given = os.environ.get("WEB_CONCURRENCY", "")
            workers = int(given) if given.isdecimal() and int(given) else 1
        _arguments.count("workers", workers)
        _arguments.count("replicas", replicas)
        return findings(self.engine, connect, self.get_connection_stats(), workers, replicas)


def _unit_session(bind: Engine) -> UnitSession:
    return UnitSession(bind, expire_on_commit=False)


def _refuse_other_pools(pool: object) -> None:
    if pool is not None and not isinstance(pool, PoolConfig):
        raise TypeError(f"pool must be a PoolConfig, not {type(pool).__name__}: write PoolConfig(**options)")


def _checked(given: object) -> dict[str, Any]:
    """Return options for `create_engine`, or raise an error that names the one that is wrong."""
    options = {} if given is None else given
    if not isinstance(options, Mapping):
        raise TypeError(f"engine_options must be a dictionary, not {type(given).__name__}")
    if not isinstance(options.get("connect_args", {}), Mapping):
        raise TypeError("engine_options['connect_args'] must be a dictionary, of arguments for the driver")
    return dict(options)


def _no_session() -> None:
    """Outside of every app there is no read session."""


# Pools and sessions of the parent process: never used here and never closed, for their sockets are shared.
_left_to_parent: list[object] = []
