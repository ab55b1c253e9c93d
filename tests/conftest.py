"""Fixtures that all tests share."""

import re
import uuid
from collections.abc import Iterator

import pytest

from tests import services
from tests.colours import Colour


@pytest.fixture(params=list(Colour), ids=str)
def colour(request: pytest.FixtureRequest) -> Colour:
    """Run the test once for blocking code and once for asyncio."""
    return request.param


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """A PostgreSQL server that lets us create databases."""
    return services.place("postgres")


@pytest.fixture
def postgres_database(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty PostgreSQL database of this test's own, dropped with all its connections afterwards."""
    import sqlalchemy

    words = re.sub(r"\W+", "_", request.node.name.lower())[:30]
    database = f"paintkit_{words}_{uuid.uuid4().hex[:8]}"
    server = sqlalchemy.create_engine(
        postgres_url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool
    )
    with server.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{database}"')
    try:
        yield sqlalchemy.make_url(postgres_url).set(database=database).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.exec_driver_sql(f'DROP DATABASE "{database}" WITH (FORCE)')


@pytest.fixture(scope="session")
def redis_url() -> str:
    """A Redis or Valkey server."""
    return services.place("redis")


@pytest.fixture(scope="session")
def mariadb_url() -> str:
    """A MariaDB server."""
    return services.place("mariadb")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium to drive."""
    return services.place("chromium")
