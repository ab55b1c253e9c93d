"""Studios for tests: on SQLite always, on PostgreSQL where there is one."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy

from studio import database
from studio.app import create_app
from studio.auth.passwords import Passwords
from studio.config import Config, DevelopmentConfig
from studio.models import Base, User
from tests.redis.conftest import own_redis  # noqa: F401 - a fixture here, too
from tests.studio.house import NAME, PASSWORD, House

SECRET = "only for tests " * 4


@pytest.fixture(scope="session")
def password_hash() -> str:
    return Passwords().hash(PASSWORD)


@pytest.fixture(scope="session")
def _empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("studio") / "empty.sqlite3"
    database.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def _own_postgres(postgres_url: str) -> Iterator[str]:
    name = f"paintkit_studio_{uuid.uuid4().hex[:8]}"
    server = sqlalchemy.create_engine(
        postgres_url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool
    )
    with server.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
    try:
        url = sqlalchemy.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
        database.upgrade(url)
        yield url
    finally:
        with server.connect() as connection:
            connection.exec_driver_sql(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The address of an empty database with today's schema."""
    if request.param == "sqlite":
        path = request.getfixturevalue("tmp_path") / "studio.sqlite3"
        shutil.copy(request.getfixturevalue("_empty_sqlite"), path)
        return f"sqlite:///{path}"
    url = request.getfixturevalue("_own_postgres")
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
        connection.exec_driver_sql(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
    engine.dispose()
    return str(url)


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> Config:
    return DevelopmentConfig(
        database_url=database_url, secret_key=SECRET, data=tmp_path, development=True, testing=True
    )


@pytest.fixture
def open_house(config: Config, password_hash: str) -> Iterator[Callable[[], House]]:
    """Opens studios on this test's database; closes them afterwards. The administrator is there already."""
    engine = sqlalchemy.create_engine(config.database_url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.insert(User).values(name=NAME, role="admin", password_hash=password_hash)
        )
    engine.dispose()
    houses = []

    def opened() -> House:
        houses.append(House(create_app(config)))
        return houses[-1]

    yield opened
    for house in houses:
        house.services.close()


@pytest.fixture
def house(open_house: Callable[[], House]) -> House:
    return open_house()
