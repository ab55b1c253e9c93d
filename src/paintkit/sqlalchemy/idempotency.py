"""Work that is done once for each key: the key is stored in the same transaction as the work, with its answer."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from sqlalchemy import (
    BigInteger,
    Column,
    Insert,
    MetaData,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)

from paintkit import _arguments
from paintkit._runtime import drive
from paintkit._tally import Tally
from paintkit._wrap import Templates, name_of, wrap
from paintkit.errors import IdempotencyKeyReusedError
from paintkit.sqlalchemy.decorating import refuse_other_colour
from paintkit.sqlalchemy.own_tables import made_by

if TYPE_CHECKING:
    from paintkit.sqlalchemy.manager import DatabaseConnectionManager
    from paintkit.telemetry import Metric
    from paintkit.typing import Decorator, P, R, Seconds

__all__ = ["IdempotencyKeys"]

T = TypeVar("T")

_DAY: Final = 86_400.0

# The longest name that is stored; names are for people, the identity is a hash.
_NAME: Final = 255

_ONCE: Final = Templates(
    name="idempotent",
    blocking="    return $once($key($arguments), $fingerprint($arguments), $later)\n",
    asyncio="    return await $once($key($arguments), $fingerprint($arguments), $later)\n",
)


class _Claim(NamedTuple):
    """What a call asks for."""

    id: str
    key: str
    name: str
    fingerprint: str | None


class IdempotencyKeys:
    """A table of keys under which work was done, and the answers that it gave.

    The key and the work are stored by one transaction: both or neither. A second call under the same key, be it at the same
    time in another process, waits for the first and gets its answer; if the first fails, the second does the work.

    Args:
        db: The manager of the database in which the work is done: PostgreSQL, MariaDB, MySQL or SQLite.
        metadata: Where to put the table, so that your migrations and `create_all` know it; default: one of its own.
        table: The name of the table.
        expires: Seconds (> 0) after which a key is forgotten, default a day.
        dump: Turns an answer into text; default JSON, for what JSON gives back as it was.
        load: Turns the text into the answer.
        now: The wall clock, in seconds; the machines that share the table should agree on it.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range.

    Example:
        >>> from paintkit.sqlalchemy import DatabaseConnectionManager
        >>> db = DatabaseConnectionManager("sqlite://")
        >>> keys = IdempotencyKeys(db)
        >>> keys.table.create(db.engine)
        >>> @keys.idempotent(key=lambda token, amount: token)
        ... def pay(token: str, amount: int) -> str:
        ...     print("paying", amount)
        ...     return f"receipt for {amount}"
        >>> pay("7d1f", 20)
        paying 20
        'receipt for 20'
        >>> pay("7d1f", 20)
        'receipt for 20'
        >>> db.close()
    """

    def __init__(
        self,
        db: DatabaseConnectionManager,
        *,
        metadata: MetaData | None = None,
        table: str = "idempotency_key",
        expires: Seconds = _DAY,
        dump: Callable[[Any], str] | None = None,
        load: Callable[[str], Any] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        if (dump is None) is not (load is None):
            raise TypeError("dump and load belong together: pass both, or none for JSON")
        self._db = _arguments.having("db", db, "unit_of_work", "a DatabaseConnectionManager")
        self._lifetime = _arguments.seconds("expires", expires)
        self._dump = _dump_json if dump is None else _arguments.callback("dump", dump)
        self._load: Callable[[str], Any] = json.loads if load is None else _arguments.callback("load", load)
        self._now = now
        self._tally = Tally("done", "repeated", "reused")
        #: The table; `keys.table.create(db.engine, checkfirst=True)` creates it.
        self.table = Table(
            _arguments.label("table", table),
            MetaData() if metadata is None else metadata,
            Column("id", String(64), primary_key=True),
            Column("name", String(_NAME), nullable=False),
            Column("fingerprint", String(64)),
            # MariaDB's TEXT ends at 64 KB.
            Column("response", Text().with_variant(Text(2**24 - 1), "mysql", "mariadb")),
            Column("expires", BigInteger, nullable=False, index=True),  # milliseconds since 1970
        )
        made_by(
            "the table of these idempotency keys is not there: call keys.table.create(db.engine, checkfirst=True), or give the "
            "keys the metadata that your migrations know",
            self.table,
        )

    def idempotent(
        self,
        *,
        key: Callable[..., str],
        fingerprint: Callable[..., str] | None = None,
        name: str | None = None,
    ) -> Decorator:
        """Decorate a function of the manager's colour: it runs in a unit of work, once for each key.

        Keys of different functions are apart.

        Args:
            key: Returns the key, from the call's arguments.
            fingerprint: Returns what else has to be the same in every call under one key, as text: the body of a request,
                say. A call that differs is refused.
            name: What the keys of this function have in common; default: its module and qualified name. Give it one that
                stays, if the function may be renamed while keys live.

        Raises:
            TypeError: At decoration: the function is of the other colour, a generator, or an argument is of the wrong kind.
                At a call: the answer is not what JSON would give back, so nothing is stored.
            IdempotencyKeyReusedError: At a call: the key was used with another fingerprint.
        """
        _arguments.callback("key", key)
        if fingerprint is not None:
            _arguments.callback("fingerprint", fingerprint)

        def decorator(fn: Callable[P, R], /) -> Callable[P, R]:
            refuse_other_colour(fn, is_async=self._db.is_async)
            scope = name_of(fn) if name is None else _arguments.label("name", name)

            def once(key: str, fingerprint: str | None, call: Callable[[], Any]) -> Any:
                return self._run(_claim(scope, key, fingerprint), call)

            helpers = {"once": once, "key": key, "fingerprint": fingerprint or _no_fingerprint}
            return wrap(fn, _ONCE, helpers)

        return decorator

    def call(self, key: str, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn(*args, **kwargs)` in a unit of work, unless it was done under this key; return its answer.

        Args:
            key: The key; here it has to tell by itself what it is for, as in `"pay:7d1f"`.
            fn: A blocking function.
            *args: Its arguments.
            **kwargs: Its arguments.

        Raises:
            TypeError: The manager is async, or the answer is not what JSON would give back.
        """
        if self._db.is_async:
            raise TypeError("this manager is async: await keys.acall(…)")
        return cast("R", self._run(_claim("", key, None), lambda: fn(*args, **kwargs)))

    async def acall(self, key: str, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do as `call` does, for a coroutine function and an async manager."""
        if not self._db.is_async:
            raise TypeError("this manager is blocking: use keys.call(…)")
        return cast("R", await self._run(_claim("", key, None), lambda: fn(*args, **kwargs)))

    def telemetry(self) -> Iterable[Metric]:
        """Return the totals of this process by the table's name, for exporters; see `paintkit.telemetry`."""
        from paintkit import _catalogue

        return _catalogue.IDEMPOTENCY.read(self.table.name, self._tally.read())

    def purge(self) -> int:
        """Forget the keys that have expired, and return how many they were."""
        if self._db.is_async:
            raise TypeError("this manager is async: await keys.apurge()")
        with self._db.unit_of_work() as session:
            return cast("int", cast("Any", session.execute(self._purging())).rowcount)

    async def apurge(self) -> int:
        """Do as `purge` does, for an async manager."""
        async with self._db.unit_of_work() as session:
            return cast("int", cast("Any", await session.execute(self._purging())).rowcount)

    def _purging(self) -> Any:
        return delete(self.table).where(self.table.c.expires <= self._milliseconds())

    def _run(self, claim: _Claim, effect: Callable[[], Any]) -> Any:
        return self._arun(claim, effect) if self._db.is_async else self._run_blocking(claim, effect)

    def _run_blocking(self, claim: _Claim, effect: Callable[[], Any]) -> Any:
        with self._db.unit_of_work() as session:
            return drive(self._once(session.execute, claim, effect))

    async def _arun(self, claim: _Claim, effect: Callable[[], Any]) -> Any:
        async with self._db.unit_of_work() as session:
            return await self._once(session.execute, claim, effect)

    async def _once(self, execute: Callable[[Any], Any], claim: _Claim, effect: Callable[[], Any]) -> Any:
        """Take the key and do the work; or wait for who has taken it, and return what was stored."""
        keys, mine = self.table, self.table.c.id == claim.id
        while True:
            expires = self._milliseconds() + round(self._lifetime * 1000)
            if await self._changes(execute, self._taking(claim, expires)):
                break
            found = (await self._settled(execute(self._reading(claim)))).one_or_none()
            if found is None:
                continue  # it was purged meanwhile
            if found.expires > self._milliseconds():
                return self._stored(claim, found)
            renewal = update(keys).where(mine, keys.c.expires == found.expires)
            if await self._changes(
                execute, renewal.values(expires=expires, response=None, fingerprint=claim.fingerprint)
            ):
                break
        result = await self._settled(effect())
        await self._changes(execute, update(keys).where(mine).values(response=self._dump(result)))
        self._tally.add("done")
        return result

    def _taking(self, claim: _Claim, expires: float) -> Insert:
        values = {"id": claim.id, "name": claim.name, "fingerprint": claim.fingerprint, "expires": expires}
        taking = _insert_or_nothing(self._db.engine.dialect.name, self.table).values(values)
        return taking.execution_options(preserve_rowcount=True)

    def _reading(self, claim: _Claim) -> Any:
        keys = self.table
        reading = select(keys.c.response, keys.c.fingerprint, keys.c.expires).where(keys.c.id == claim.id)
        # In a snapshot of MariaDB's a row that just now stopped us would not be there yet; whoever locks sees it.
        is_mysql = self._db.engine.dialect.name in {"mysql", "mariadb"}
        return reading.with_for_update(read=True) if is_mysql else reading

    def _stored(self, claim: _Claim, found: Any) -> Any:
        if found.fingerprint != claim.fingerprint:
            self._tally.add("reused")
            raise IdempotencyKeyReusedError(
                f"the key {claim.key!r} was used for another call of {claim.name or 'keys.call'}: take a new key for new work"
            )
        if found.response is None:
            raise RuntimeError(f"the work under {claim.key!r} calls itself under the same key")
        self._tally.add("repeated")
        return self._load(found.response)

    def _milliseconds(self) -> int:
        return round(self._now() * 1000)

    async def _changes(self, execute: Callable[[Any], Any], statement: Any) -> bool:
        return cast("int", (await self._settled(execute(statement))).rowcount) > 0

    async def _settled(self, result: Any) -> Any:
        return await result if self._db.is_async else result


def _claim(name: str, key: object, fingerprint: str | None) -> _Claim:
    label = _arguments.label("key", key)
    # A hash: exact where a collation takes `a` for `A`, and never too long. The length keeps name and key apart.
    identity = hashlib.sha256(f"{len(name)}:{name}{label}".encode()).hexdigest()
    printed = None if fingerprint is None else hashlib.sha256(fingerprint.encode()).hexdigest()
    return _Claim(identity, label, name[:_NAME], printed)


def _no_fingerprint(*_args: object, **_kwargs: object) -> None:
    """By default nothing but the key is compared."""


def _dump_json(result: object) -> str:
    text = ""
    with contextlib.suppress(TypeError, ValueError):  # told below
        text = json.dumps(result, allow_nan=False)
    if not text or json.loads(text) != result:
        raise TypeError(
            f"JSON would not give back {type(result).__qualname__} as it is: return plain data without tuples, or pass dump= "
            "and load="
        )
    return text


def _insert_or_nothing(dialect: str, table: Table) -> Insert:
    """Return an INSERT that waits for who inserts the same key, and does nothing if it is there."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing()
    if dialect == "sqlite":
        return insert(table).prefix_with("OR IGNORE")
    if dialect in {"mysql", "mariadb"}:
        return insert(table).prefix_with("IGNORE")
    raise TypeError(
        f"idempotency keys need PostgreSQL, MariaDB, MySQL or SQLite, not {dialect}: the key has to be taken by an INSERT "
        "that does nothing if it is there"
    )
