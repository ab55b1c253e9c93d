"""Results of SELECTs in a cache: an answer for each statement with its values, until a table that it reads is written."""

from __future__ import annotations

import enum
import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

from sqlalchemy import event
from sqlalchemy.orm import Session, UserDefinedOption

from paintkit import _arguments, ambient
from paintkit._tally import Tally
from paintkit.sqlalchemy import tables
from paintkit.sqlalchemy.sessions import ReadSession, UnitSession
from paintkit.sqlalchemy.snapshots import LEAVES, Snapshot, take
from paintkit.sqlalchemy.units import UnitOfWork
from paintkit.sqlalchemy.urls import pool_name

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.engine import Result
    from sqlalchemy.orm import ORMExecuteState

    from paintkit.sqlalchemy.manager import DatabaseConnectionManager
    from paintkit.telemetry import Metric
    from paintkit.typing import Seconds

__all__ = ["FromCache", "QueryCache"]

# A cached call bears at most so many tags; what reads more tables goes with every one that is written.
_MOST_TAGS: Final = 15
_MANY: Final = "tables"

# What all results bear. Other processes know of tags alone.
_ALL: Final = "queries"

# How many statements, apart from their values, are known by number.
_MOST_STATEMENTS: Final = 2048

# Options with which a result is more, or less, than its rows.
_UNCACHED: Final = ("populate_existing", "yield_per", "stream_results")

# The option with which tables are in other schemas than they say.
_ELSEWHERE: Final = "schema_translate_map"

# Where a connection keeps what was written on it outside every unit of work, and a session its connection.
_WRITTEN: Final = "paintkit_written"
_CONNECTION: Final = "paintkit_connection"


class _Absent(enum.Enum):
    ABSENT = "absent"


class Cache(Protocol):
    """What a query cache needs of `paintkit.CacheManager`."""

    def cache_result(
        self,
        *,
        timeout: Callable[[Any], Seconds | None],
        key_func: Callable[..., str],
        tags: Callable[..., Iterable[str]],
        level2: bool,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator that caches a function."""
        ...

    def invalidate(self, what: Any, /) -> None:
        """Drop what bears a tag; inside a unit of work after its commit."""
        ...


class FromCache(UserDefinedOption):
    """An option of a SELECT: its result may come from the query cache of the manager that runs it.

    Args:
        timeout: Seconds (> 0) or a `timedelta` for which the result may be served again; `None`: until a table that it reads
            is written; absent: the query cache's.
        tables: Names of further tables that it reads, where SQLAlchemy cannot see them: in text, views or functions.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range.
    """

    propagate_to_loaders = False

    def __init__(
        self,
        timeout: Seconds | _Absent | None = _Absent.ABSENT,
        *,
        tables: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.timeout: float | _Absent | None = (
            timeout
            if isinstance(timeout, _Absent)
            else _arguments.seconds_or_none("timeout", timeout, none="never expires")
        )
        if isinstance(tables, str):
            raise TypeError(
                f"tables must be a collection of names, not {tables!r}; for one name write (name,)"
            )
        self.tables = frozenset(_arguments.label("a name in tables", name) for name in tables)


class _Question(NamedTuple):
    """One SELECT with its values."""

    key: str
    tags: tuple[str, ...]
    load: Callable[[], Snapshot]


class _Known(NamedTuple):
    """What is known of a statement apart from its values."""

    number: int
    tags: tuple[str, ...]


class QueryCache:
    """Keeps the results of those SELECTs of one manager that carry the option `FromCache`.

    A result is kept as plain data; every caller gets objects of its own session. It is dropped by the COMMIT of a unit of
    work that wrote one of its tables, in whatever way; that unit itself reads around the cache from its first write on. What
    is written with `text()`, or as a string for the driver, drops everything, for nobody knows what it wrote. What is written
    past SQLAlchemy, on a cursor of the driver, is not seen: say `touched()`.

    Args:
        db: The manager. Listeners of your own that change statements (`do_orm_execute`) have to be registered before.
        cache: A `CacheManager`. Results stay in the memory of this process. If it has a second level, the query caches of all
            processes on managers of this name hear of each other's writes.
        timeout: Seconds (> 0, default 300) or a `timedelta` for which results may be served; `None`: until they are dropped.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range, or the manager has a query cache.

    Example:
        >>> from sqlalchemy import column, select, table
        >>> from paintkit import CacheManager
        >>> from paintkit.sqlalchemy import DatabaseConnectionManager, query_guard
        >>> db = DatabaseConnectionManager("sqlite://")
        >>> queries = QueryCache(db, CacheManager("queries"))
        >>> with db.unit_of_work() as session:
        ...     _ = session.connection().exec_driver_sql("CREATE TABLE paint (name TEXT)")
        >>> names = select(column("name")).select_from(table("paint")).options(FromCache(timeout=60, tables=("paint",)))
        >>> with db.unit_of_work(read_only=True) as session:
        ...     session.scalars(names).all()
        []
        >>> with query_guard(max_queries=0), db.unit_of_work(read_only=True) as session:
        ...     session.scalars(names).all()
        []
        >>> db.close()
    """

    def __init__(self, db: DatabaseConnectionManager, cache: Cache, *, timeout: Seconds | None = 300) -> None:
        _arguments.having("db", db, "unit_of_work", "a DatabaseConnectionManager")
        _arguments.having("cache", cache, "cache_result", "a CacheManager")
        if db in _caches:
            raise ValueError("this manager has a query cache already: use that one")
        self._cache = cache
        self._timeout = _arguments.seconds_or_none("timeout", timeout, none="never expires")
        self._statements: OrderedDict[Any, _Known] = OrderedDict()
        self._numbers = itertools.count(1)
        self._numbering = threading.Lock()  # guards _statements
        self._tally = Tally("answered", "loads", "uncached", "writes")
        self._engine = db.engine
        self._load = cache.cache_result(
            timeout=lambda snapshot: cast("Snapshot", snapshot).timeout,
            key_func=lambda question: cast("_Question", question).key,
            tags=lambda question: cast("_Question", question).tags,
            level2=False,  # what is kept belongs to this process: its numbers and its mapped classes
        )(_load)
        _caches[db] = self
        event.listen(db.engine, "before_cursor_execute", self._on_statement)
        event.listen(db.engine, "checkin", self._on_checkin)
        for sessions in (UnitSession, ReadSession):
            if not event.contains(sessions, "do_orm_execute", _on_execute):
                event.listen(sessions, "do_orm_execute", _on_execute)
                event.listen(sessions, "after_begin", _on_begin)

    def touched(self, *names: str) -> None:
        """Say that tables were written where SQLAlchemy cannot see it: by a trigger, a procedure, another program.

        Inside a unit of work it counts from its commit on, and for the unit itself at once.

        Args:
            *names: The tables; with their schema, if they have one, as in `"shop.paint"`.
        """
        for name in names:
            self._cache.invalidate(_tag(_arguments.label("a name of a table", name)))
        if names:
            self._cache.invalidate(_MANY)

    def answer(self, state: ORMExecuteState, option: FromCache) -> Result[Any] | None:
        """Return the result of a statement, or `None`: it has to run as if there were no cache."""
        session = state.session
        question = self._question(state, option)
        if question is None:
            self._tally.add("uncached")
            return None
        if session.autoflush:
            session.flush()
        snapshot = cast("Snapshot", self._load(question))
        self._tally.add("answered")
        return snapshot.rebuild(session)

    def telemetry(self) -> Iterable[Metric]:
        """Return the totals by the name of the manager's pool, for exporters; see `paintkit.telemetry`.

        Entries, hits and evictions are told by the cache.
        """
        from paintkit import _catalogue

        return _catalogue.QUERY_CACHE.read(pool_name(self._engine), self._tally.read())

    def _question(self, state: ORMExecuteState, option: FromCache) -> _Question | None:
        statement: Any = state.statement
        given = state.parameters or {}
        options = state.execution_options
        cache_key = statement._generate_cache_key()
        if (
            cache_key is None
            or not isinstance(given, Mapping)
            or getattr(statement, "_for_update_arg", None) is not None
            or any(options.get(name) for name in _UNCACHED)
            or self._is_elsewhere({**_options_of(state.session), **options})
        ):
            return None
        known = self._known(cache_key.key, statement, option)
        values = (given.get(bind.key, bind.effective_value) for bind in cache_key.bindparams)
        timeout = self._timeout if isinstance(option.timeout, _Absent) else option.timeout

        passed_on = {name: one for name, one in state.local_execution_options.items() if name[0] != "_"}

        def load() -> Snapshot:
            # A session that nobody else sees: what the caller's holds may be older than what the database has now.
            self._tally.add("loads")
            # Not through UnitSession.connection, which takes for written whatever is done with what it returns.
            connection = Session.connection(state.session)
            with Session(connection, join_transaction_mode="rollback_only", autoflush=False) as scratch:
                return take(scratch.execute(statement, given, execution_options=passed_on), timeout)

        return _Question(f"{known.number}:{':'.join(map(_exact, values))}", known.tags, load)

    def _known(self, key: Any, statement: Any, option: FromCache) -> _Known:
        key = (key, option.tables)
        with self._numbering:
            known = self._statements.get(key)
            if known is not None:
                self._statements.move_to_end(key)
                return known
        read = tables.read_by(statement, self._engine.dialect) | option.tables
        if not option.tables and tables.has_text(statement):
            raise TypeError(
                "a SELECT with text in it may read any table: name those that the text reads, as in FromCache(tables=('paint',))"
            )
        tags = (_ALL, *(map(_tag, sorted(read)) if len(read) <= _MOST_TAGS else (_MANY,)))
        with self._numbering:
            known = self._statements.setdefault(key, _Known(next(self._numbers), tags))
            if len(self._statements) > _MOST_STATEMENTS:
                self._statements.popitem(last=False)
        return known

    def _is_elsewhere(self, options: Mapping[str, Any]) -> bool:
        """Whether tables have other schemas under these options than for everybody."""
        usual = self._engine.get_execution_options().get(_ELSEWHERE)
        return bool(options.get(_ELSEWHERE, usual) != usual)

    # What is written.

    def _on_statement(
        self, connection: Connection, _cursor: object, sql: str, _values: object, context: Any, _many: bool
    ) -> None:
        written = tables.written_by(context.compiled, sql)
        if not written:
            return
        if self._is_elsewhere(context.execution_options):
            written = tables.EVERY_TABLE
        unit = _unit_of(connection)
        if unit is None:
            connection.info.setdefault(_WRITTEN, set()).update(written)
        else:
            self._invalidate(written, unit)

    def _on_checkin(self, _connection: object, record: Any) -> None:
        # Here the transaction is over for certain; when it was committed nobody tells.
        written = record.info.pop(_WRITTEN, None)
        if written:
            self._invalidate(written, None)

    def _invalidate(self, written: Iterable[str], unit: UnitOfWork | None) -> None:
        """Drop what reads these tables: after the commit of the unit of work that wrote them, or at once without one."""
        written = _news(frozenset(written), unit)
        if not written:
            return
        self._tally.add("writes", len(written))
        token = ambient.unit_of_work.set(unit)
        try:
            if tables.EVERY_TABLE & written:
                self._cache.invalidate(_ALL)
            else:
                self.touched(*written)
        finally:
            ambient.unit_of_work.reset(token)


def _load(question: _Question) -> Snapshot:
    return question.load()


def _tag(table: str) -> str:
    return f"table:{table}"


def _unit_of(connection: Connection) -> UnitOfWork | None:
    unit = ambient.unit_of_work.get()
    while isinstance(unit, UnitOfWork):
        if unit.holds(connection):
            return unit
        unit = cast("UnitOfWork | None", unit.outer)
    return None


def _news(written: frozenset[str], unit: UnitOfWork | None) -> frozenset[str]:
    """Leave out the tables that the unit of work knows to be written, in the savepoint that is open now."""
    if unit is None:
        return written
    savepoint = unit.session.get_nested_transaction()
    # With a savepoint that is rolled back its invalidations are forgotten; so it matters where a table was written.
    known: dict[str, object] = unit.session.info.setdefault(_WRITTEN, {})
    news = frozenset(name for name in written if known.get(name, known) is not savepoint)
    known.update(dict.fromkeys(news, savepoint))
    return news


def _exact(value: Any) -> str:
    """Return a value as text that no other value has.

    Raises:
        TypeError: Nobody knows such a text for a value of this type.
    """
    if type(value) in LEAVES:
        return f"{type(value).__name__}={value!r}"
    if isinstance(value, enum.Enum):
        return f"{type(value).__module__}.{type(value).__qualname__}.{value.name}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_exact, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_exact(key)}:{_exact(one)}' for key, one in value.items())}}}"
    raise TypeError(
        f"a cached SELECT cannot have a value of type {type(value).__qualname__}, of which no exact key is known: pass plain "
        "values, or leave FromCache out"
    )


def _on_begin(session: Session, _transaction: object, connection: Connection) -> None:
    session.info[_CONNECTION] = connection


def _options_of(session: Session) -> Mapping[str, Any]:
    """Return the options of the connection that a session has at this moment; it takes none for that."""
    connection = session.info.get(_CONNECTION) if session.in_transaction() else None
    return {} if connection is None else cast("Connection", connection).get_execution_options()


def _on_execute(state: ORMExecuteState) -> Result[Any] | None:
    if not state.is_select or state.is_relationship_load or state.is_column_load:
        return None
    option = next((one for one in state.user_defined_options if isinstance(one, FromCache)), None)
    if option is None:
        return None
    queries = _caches.get(cast("UnitSession | ReadSession", state.session).label)
    if queries is None:
        raise RuntimeError(
            "a SELECT with FromCache ran, and its manager has no query cache: make one with QueryCache(db, cache)"
        )
    return queries.answer(state, option)


_caches: Final[weakref.WeakKeyDictionary[Any, QueryCache]] = weakref.WeakKeyDictionary()
