"""What a database URL says, and what paintkit adds to one that says too little."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

__all__ = ["is_async", "normalized_url", "pool_name"]

# Drivers differ between versions of SQLAlchemy; a URL without one gets the driver that paintkit is tested with.
_DRIVERS: Final = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}

# What brings a driver, where that is no package of the same name.
_EXTRAS: Final = {
    "MySQLdb": "mysqlclient",
    "mysql": "mysql-connector-python",
    "aiosqlite": "'paintkit[async]' aiosqlite",
    "asyncpg": "'paintkit[async]' asyncpg",
    "psycopg": "'paintkit[postgres]'",
    "pymysql": "'paintkit[mysql]'",
}


def normalized_url(url: URL | str) -> URL:
    """Return the URL with its driver named; `postgres://` is understood.

    Raises:
        TypeError: It is neither a string nor a URL.
        ValueError: It is no database URL, or names a database that SQLAlchemy does not know.

    Example:
        >>> normalized_url("postgres://localhost/studio").drivername
        'postgresql+psycopg'
    """
    if not isinstance(url, URL | str):
        raise TypeError(f"a database is named by a URL, not by {type(url).__name__}")
    try:
        parsed = make_url(url)
        named = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
        named.get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        package = _EXTRAS.get(error.name or "", error.name)
        raise ValueError(
            f"the driver of this database is not installed: {error}; pip install {package}"
        ) from error
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        # The text of the URL is not repeated: it may hold a password.
        raise ValueError(
            f"not a database URL ({type(error).__name__}): write it as 'dialect+driver://user@host/name'"
        ) from None
    return named


def is_async(url: URL) -> bool:
    """Whether the driver of this URL works under asyncio only."""
    return url.get_dialect().is_async


def pool_name(engine: Engine) -> str:
    """Return what the pool is called in metrics: its `pool_logging_name`, else host, port and database, as OpenTelemetry wants.

    Example:
        >>> from sqlalchemy import create_engine
        >>> pool_name(create_engine("postgresql+psycopg://me:secret@db.example:5432/studio"))
        'db.example:5432/studio'
    """
    url, given = engine.url, engine.pool.logging_name
    if given:
        return given
    if url.host is None:  # a file's folders are the machine's business
        return PurePath(url.database or ":memory:").name
    port = "" if url.port is None else f":{url.port}"
    return f"{url.host}{port}/{url.database or ''}"
