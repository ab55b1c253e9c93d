"""Databases for the tests of units of work: SQLite in memory and in files, PostgreSQL and MariaDB, in both colours."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.sqlalchemy.house import House, admin_engine

DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgres-async": "postgresql+psycopg_async",
    "asyncpg": "postgresql+asyncpg",
}
KINDS = ("sqlite-memory", "sqlite-file", "postgres", "mariadb", "aiosqlite", "postgres-async", "asyncpg")


@pytest.fixture(scope="session")
def shared_postgres(postgres_url: str) -> Iterator[str]:
    """One database on the real server, for all tests of this folder."""
    name = f"paintkit_sqlalchemy_{os.getpid()}_{uuid.uuid4().hex[:6]}"
    server = admin_engine(postgres_url)
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


@pytest.fixture(scope="session")
def shared_mariadb(mariadb_url: str) -> Iterator[str]:
    """The same on MariaDB."""
    name = f"paintkit_sqlalchemy_{os.getpid()}_{uuid.uuid4().hex[:6]}"
    server = admin_engine(mariadb_url)
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield make_url(mariadb_url).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}")
    server.dispose()


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of one kind of database."""
    kind: str = getattr(request, "param", "sqlite-memory")
    if kind == "mariadb":
        return request.getfixturevalue("shared_mariadb")
    if kind in DRIVERS:
        shared = make_url(request.getfixturevalue("shared_postgres"))
        return shared.set(drivername=DRIVERS[kind]).render_as_string(hide_password=False)
    return {
        "sqlite-memory": "sqlite://",
        "sqlite-file": f"sqlite:///{tmp_path / 'paints.db'}",
        "aiosqlite": "sqlite+aiosqlite://",
    }[kind]


@pytest.fixture
def house(url: str) -> House:
    """A manager on it."""
    return House(url)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a house over every kind of database, unless it, or its module, names its kinds."""
    named = any("url" in marker.args[0] for marker in metafunc.definition.iter_markers("parametrize"))
    if "house" in metafunc.fixturenames and not named:
        metafunc.parametrize("url", getattr(metafunc.module, "KINDS", KINDS), indirect=True)
