"""Fixtures that all tests share."""

import re
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests import services
from tests.colours import Colour

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# A browser that talks to nobody but the page under test.
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


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


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator["Browser"]:
    """A headless Chromium, for modules that run no event loop of their own: its driver runs one in this thread."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=list(QUIET), timeout=90_000)
        yield running
        running.close()
