"""Which database errors may be gone at the next attempt, by SQLSTATE and by what each driver says."""

from __future__ import annotations

import errno
import re
import socket
import sqlite3
from collections.abc import Iterator
from typing import Final

from sqlalchemy import exc as sa_exc

from paintkit.errors import PaintkitError, PoolTimeoutError, UnexpectedRollbackError

__all__ = ["is_transient", "outcome_is_unknown"]

# https://www.postgresql.org/docs/current/errcodes-appendix.html; whole classes end in nothing.
_TRANSIENT_STATES: Final = (
    "08000", "08001", "08003", "08006", "08007",  # the connection failed
    "25P03",  # the session was idle in a transaction for too long and was closed
    "40001", "40P01",  # serialization failure, deadlock
    "53300",  # too many connections
    "55P03",  # a lock was not available in time
    "57P01", "57P02", "57P03", "57P05",  # shut down, crashed, starting up, closed as idle
)  # fmt: skip
_UNKNOWN_OUTCOME_STATES: Final = ("08007", "40003")

# https://mariadb.com/kb/en/mariadb-error-codes/ and the client's own 2xxx.
_TRANSIENT_MYSQL: Final = frozenset(
    {
        1020,  # the record has changed since it was read
        1040, 1203, 1226,  # too many connections, of all or of this user
        1053, 1927,  # the server shuts down, the connection was killed
        1158, 1159, 1160, 1161,  # the network failed
        1205, 1213,  # lock wait timeout, deadlock
        2002, 2003, 2006, 2013, 2055,  # cannot connect, gone away, lost
        3101,  # another member of the group was quicker
        3572,  # a lock was not free at once
        4031,  # closed as idle
    }
)  # fmt: skip

_MYSQL_DRIVERS: Final = frozenset({"pymysql", "MySQLdb", "mysql", "mariadb", "asyncmy", "aiomysql"})

# After one of these, sent in answer to COMMIT, the work may be stored all the same: MariaDB notices a KILL, and looks
# after its connections, when the engine has committed already.
_UNKNOWN_OUTCOME_MYSQL: Final = frozenset({1053, 1158, 1159, 1160, 1161, 1317, 1927, 2006, 2013, 2055, 4031})

_TRANSIENT_SQLITE: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

# The host, or the way to it, is not there at this moment; what waits or is refused is an error of a kind of its own.
_TRANSIENT_ERRNOS: Final = frozenset(
    {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH}
)

# libpq gives no SQLSTATE for what happens before a session exists, only words.
_TRANSIENT_WORDS: Final = re.compile(
    r"connection refused|connection reset|connection timed out|connection timeout|timeout expired|broken pipe"
    r"|could not receive data|could not send data|server closed the connection|closed unexpectedly"
    r"|connection (already )?closed|connection is (closed|lost|bad)|the connection is closed|terminating connection"
    r"|starting up|shutting down|recovery mode|not yet accepting connections|too many (clients|connections)|remaining connection slots"
    r"|network is unreachable|no route to host|host is down|connect call failed|temporary failure in name resolution",
    re.IGNORECASE,
)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same work, done anew in a fresh unit of work, may succeed.

    It may after a deadlock, a serialization failure, a lock that was not free in time, a lost or refused connection, an
    exhausted pool. It may not after anything that the data or the program caused, when a statement was cancelled, or when
    nobody knows whether a COMMIT arrived. Looks through SQLAlchemy's wrapper and along `__cause__`.

    Args:
        error: What was raised.

    Raises:
        TypeError: It is no exception.

    Example:
        >>> is_transient(ConnectionResetError()), is_transient(KeyError("sku"))
        (True, False)
    """
    if not isinstance(error, BaseException):
        raise TypeError(
            f"is_transient tells of an exception that was raised, not of {error!r} ({type(error).__name__})"
        )
    verdicts = (_verdict(one) for one in _chain(error))
    return next((verdict for verdict in verdicts if verdict is not None), False)


def outcome_is_unknown(error: BaseException) -> bool:
    """Tell whether an error of COMMIT leaves open what became of the work."""
    for one in _chain(error):
        if isinstance(one, sa_exc.DBAPIError) and one.connection_invalidated:
            return True
        # Also a time that is up: asyncpg raises it as it is, and the connection need not be lost.
        if isinstance(one, OSError) and not isinstance(one, PaintkitError):
            return True
        if _sqlstate(one) in _UNKNOWN_OUTCOME_STATES:
            return True
        if _driver(one) in _MYSQL_DRIVERS and one.args and one.args[0] in _UNKNOWN_OUTCOME_MYSQL:
            return True
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        orig = getattr(current, "orig", None)
        current = orig if isinstance(orig, BaseException) else current.__cause__


def _verdict(error: BaseException) -> bool | None:
    """True or False where this error alone decides; `None` where the next in the chain has to."""
    if isinstance(error, PoolTimeoutError | sa_exc.TimeoutError):
        return True
    if isinstance(error, PaintkitError):
        # What a swallowed failure did to a unit of work is as transient as that failure.
        return None if isinstance(error, UnexpectedRollbackError) else False
    if isinstance(error, sa_exc.DBAPIError):
        return True if error.connection_invalidated else None
    module = _driver(error)
    if module in _MYSQL_DRIVERS:
        # By number: what the server means by SQLSTATE HY000 is anything from a lock to a missing column.
        return bool(error.args) and error.args[0] in _TRANSIENT_MYSQL
    state = _sqlstate(error)
    if state is not None:
        return state in _TRANSIENT_STATES
    return _by_driver(error, module)


def _driver(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE as psycopg and asyncpg (`sqlstate`) or psycopg2 (`pgcode`) give it."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None


def _by_driver(error: BaseException, module: str) -> bool | None:
    if isinstance(error, sqlite3.Error):
        return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _TRANSIENT_SQLITE
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and _network_is_down(error):
        return True
    if module in {"psycopg", "psycopg2", "asyncpg"}:
        return _TRANSIENT_WORDS.search(str(error)) is not None
    return None


def _network_is_down(error: OSError) -> bool:
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    # asyncio tried several addresses of a name in vain, and tells what became of each in words alone.
    several = error.errno is None and str(error).startswith("Multiple exceptions")
    return error.errno in _TRANSIENT_ERRNOS or (several and _TRANSIENT_WORDS.search(str(error)) is not None)
