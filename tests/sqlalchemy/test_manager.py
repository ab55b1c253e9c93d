"""The database of an application: where its engine comes from, and what it tells about it."""

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from paintkit.sqlalchemy import POOL_SETTINGS, DatabaseConnectionManager, PoolConfig


def app_with(uri: str | None, **options: object) -> Flask:
    app = Flask("studio")
    app.config["SQLALCHEMY_DATABASE_URI"] = uri
    if options:
        app.config["SQLALCHEMY_ENGINE_OPTIONS"] = options
    return app


def test_url_with_pool() -> None:
    """A URL and pool options make the engine, at its first use."""
    db = DatabaseConnectionManager(
        "sqlite://", pool=PoolConfig(pool_size=3, max_overflow=4, pool_timeout=1.5)
    )
    pool = db.engine.pool
    assert (3, 4, 1.5, True) == (pool.size(), pool._max_overflow, pool.timeout(), db.engine.hide_parameters)
    assert db.engine is db.engine
    db.close()


def test_a_manager_shows_its_database_and_no_password() -> None:
    """Before its engine is created and afterwards."""
    db = DatabaseConnectionManager("postgresql://me:s3cret@localhost/studio")
    before = repr(db)

    assert "<DatabaseConnectionManager postgresql+psycopg://me:***@localhost/studio>" == before
    assert db.engine.url.host == "localhost"
    assert before == repr(db)
    db.close()


def test_values_stay_out_of_errors(url: str) -> None:
    """Errors do not repeat the values of a statement, unless in development."""
    for pool, shown in ((PoolConfig(), False), (PoolConfig.development(), True)):
        db = DatabaseConnectionManager(url, pool=pool)
        with pytest.raises(Exception, match="no such table") as caught, db.unit_of_work() as session:
            session.execute(text("SELECT * FROM nowhere WHERE a = :a"), {"a": "s3cret"})
        assert shown is ("s3cret" in str(caught.value))
        db.close()


def test_flask_app_is_read() -> None:
    """A Flask app gives the URL and the engine options; its options win over the defaults, key by key."""
    app = app_with("sqlite://", pool_size=2, connect_args={"timeout": 1.0})
    db = DatabaseConnectionManager(app)
    assert (2, 10) == (db.engine.pool.size(), db.engine.pool._max_overflow)
    with db.engine.connect() as connection:
        assert 1000 == connection.scalar(text("PRAGMA busy_timeout"))
    assert app.extensions["paintkit.sqlalchemy"] is db
    db.close()


def test_configure_pool_as_in_the_guide() -> None:
    """The manager sets the app's engine options when it is made, and again when it is told to before its first use."""
    app = app_with("sqlite://", echo=False)
    db = DatabaseConnectionManager(app)
    settings = app.config["SQLALCHEMY_ENGINE_OPTIONS"]
    assert dict(POOL_SETTINGS) == {name: settings[name] for name in POOL_SETTINGS}
    assert settings["echo"] is False
    db.configure_pool(PoolConfig(pool_size=7))
    assert 7 == app.config["SQLALCHEMY_ENGINE_OPTIONS"]["pool_size"]
    assert 7 == db.engine.pool.size()
    db.configure_pool()
    with pytest.raises(RuntimeError, match="before the database is used"):
        db.configure_pool(PoolConfig(pool_size=9))
    db.close()


@pytest.mark.parametrize("poolclass", [NullPool, StaticPool])
def test_flask_app_with_another_pool_class(poolclass: type) -> None:
    """Engine options that name a pool class get along with the defaults, which it does not all understand."""
    db = DatabaseConnectionManager(app_with("sqlite://", poolclass=poolclass))
    assert isinstance(db.engine.pool, poolclass)
    assert db.get_connection_stats()["size"] is None
    db.close()


def test_flask_app_without_a_url() -> None:
    """An app without a database URL is refused at once, with the name of the setting."""
    with pytest.raises(ValueError, match="SQLALCHEMY_DATABASE_URI"):
        DatabaseConnectionManager(app_with(None))


def test_one_manager_for_an_app() -> None:
    """A second manager for an app is refused."""
    app = app_with("sqlite://")
    db = DatabaseConnectionManager(app)
    with pytest.raises(ValueError, match="already"):
        DatabaseConnectionManager(app)
    db.close()


@pytest.mark.parametrize("source", [None, 5, object()])
def test_other_sources_are_refused(source: object) -> None:
    """What is neither URL, engine nor app is a TypeError."""
    with pytest.raises(TypeError):
        DatabaseConnectionManager(source)


def test_engine_keeps_its_pool() -> None:
    """An engine is taken as it is; pool options beside it are refused, at construction and later."""
    engine = create_engine("sqlite://")
    with pytest.raises(ValueError, match="pool"):
        DatabaseConnectionManager(engine, pool=PoolConfig())
    db = DatabaseConnectionManager(engine)
    with pytest.raises(RuntimeError):
        db.configure_pool(PoolConfig())
    engine.dispose()


@pytest.mark.parametrize(
    "make",
    [
        lambda: create_engine("sqlite://", isolation_level="AUTOCOMMIT"),
        lambda: create_engine("sqlite://").execution_options(isolation_level="AUTOCOMMIT"),
        lambda: app_with("sqlite://", isolation_level="AUTOCOMMIT"),
    ],
    ids=["engine", "option", "app"],
)
def test_autocommit_is_refused(make: Callable[[], object]) -> None:
    """An engine that commits every statement by itself is refused: what fails in a unit of work would be stored."""
    with pytest.raises(ValueError, match="AUTOCOMMIT"):
        _ = DatabaseConnectionManager(make()).engine


@pytest.mark.parametrize(
    ("options", "named"), [("echo", "engine_options"), ({"connect_args": None}, "connect_args")]
)
def test_bad_engine_options_are_named(options: object, named: str) -> None:
    """Options that are no dictionary are refused at once."""
    with pytest.raises(TypeError, match=named):
        DatabaseConnectionManager("sqlite://", engine_options=options)


def test_pool_must_be_a_pool_config() -> None:
    """Pool options by themselves are refused with the fix, at construction and later; so are an app's that are no dictionary."""
    with pytest.raises(TypeError, match=r"PoolConfig\(\*\*options\)"):
        DatabaseConnectionManager("sqlite://", pool=dict(POOL_SETTINGS))
    with pytest.raises(TypeError, match=r"PoolConfig\(\*\*options\)"):
        DatabaseConnectionManager("sqlite://").configure_pool(dict(POOL_SETTINGS))
    app = app_with("sqlite://")
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = ["echo"]
    with pytest.raises(TypeError, match="SQLALCHEMY_ENGINE_OPTIONS"):
        DatabaseConnectionManager(app)


def test_twins_of_the_other_colour_are_refused() -> None:
    """To close or check a manager in the other colour would do nothing: it names the twin that does."""
    blocking, asyncio_only = (
        DatabaseConnectionManager("sqlite://"),
        DatabaseConnectionManager("sqlite+aiosqlite://"),
    )
    for call, twin in ((asyncio_only.close, "db.aclose()"), (asyncio_only.check, "db.acheck()")):
        with pytest.raises(TypeError, match=re.escape(twin)):
            call()
    for start, twin in ((blocking.aclose, "db.close()"), (blocking.acheck, "db.check()")):
        with pytest.raises(TypeError, match=re.escape(twin)):
            asyncio.run(start())
    blocking.close()
    asyncio.run(asyncio_only.aclose())


def test_async_engine_makes_an_async_manager() -> None:
    """An AsyncEngine makes an async manager; the blocking engine within it is at hand for events and metadata."""

    async def scenario() -> None:
        engine = create_async_engine("sqlite+aiosqlite://")
        db = DatabaseConnectionManager(engine)
        assert (True, engine, engine.sync_engine) == (db.is_async, db.async_engine, db.engine)
        async with db.unit_of_work() as session:
            assert 1 == await session.scalar(text("select 1"))
        await engine.dispose()

    asyncio.run(scenario())
    blocking = DatabaseConnectionManager("sqlite://")
    with pytest.raises(TypeError, match="blocking"):
        _ = blocking.async_engine
    blocking.close()


def test_asyncio_half_loads_late() -> None:
    """A blocking manager at work loads neither Flask nor SQLAlchemy's asyncio half."""
    import subprocess
    import sys

    code = """
import sys
from paintkit.sqlalchemy import DatabaseConnectionManager
db = DatabaseConnectionManager("sqlite://")
with db.unit_of_work() as session:
    session.connection()
print([name for name in ("flask", "sqlalchemy.ext.asyncio", "psycopg") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


def test_forked_child_leaves_the_parents_connections_alone(
    url: str, shared_postgres: str, tmp_path: Path
) -> None:
    """After a fork parent and child both work, on connections of their own, and the parent's survive the child's end."""
    db = DatabaseConnectionManager(shared_postgres)
    pid = text("SELECT pg_backend_pid()")
    with db.unit_of_work() as session:
        mine = session.scalar(pid)
    told = tmp_path / "child"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with db.unit_of_work() as session:
                told.write_text(str(session.scalar(pid)))
            db.close()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert 0 == os.waitstatus_to_exitcode(status)
    with db.unit_of_work() as session:
        assert mine == session.scalar(pid)
    assert mine != int(told.read_text())
    db.close()


def test_check_compares_with_the_server(shared_postgres: str) -> None:
    """`check()` multiplies the pool by workers and replicas and compares it with what PostgreSQL allows."""
    db = DatabaseConnectionManager(shared_postgres, pool=PoolConfig(pool_size=5, max_overflow=10))
    with db.unit_of_work() as session:
        limit = int(session.scalar(text("SHOW max_connections"))) - int(
            session.scalar(text("SHOW superuser_reserved_connections"))
        )
    fitting = (limit - 5) // 15
    assert ["ok", "ok"] == [finding.level for finding in db.check(workers=1)]
    assert "ok" == db.check(workers=fitting)[0].level
    worst = db.check(workers=limit, replicas=3)[0]
    assert "error" == worst.level
    assert f"= {15 * limit * 3}, the server allows {limit}" in worst.message
    assert 0 == db.get_connection_stats()["checked_out"]
    db.close()


@pytest.mark.parametrize("url", ["mariadb"], indirect=True)
def test_check_compares_with_mariadb(url: str) -> None:
    """The same on MariaDB, which tells what it allows all users and each of them."""
    db = DatabaseConnectionManager(url, pool=PoolConfig(pool_size=5, max_overflow=10))
    with db.unit_of_work() as session:
        limit = session.scalar(text("SELECT @@max_connections"))
    assert ["ok", "ok"] == [finding.level for finding in db.check(workers=1)]
    worst = db.check(workers=limit)[0]
    assert ("error", True) == (worst.level, f"the server allows {limit}:" in worst.message)
    db.close()


def test_check_heeds_the_limits_of_the_user_and_the_database(shared_postgres: str) -> None:
    """Where PostgreSQL allows this user or this database less than all together, that is what counts."""
    admin = create_engine(shared_postgres, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    name = make_url(shared_postgres).database
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 14")
    db = DatabaseConnectionManager(make_url(shared_postgres).set(username=name))
    try:
        assert db.check()[0].message.endswith(
            "the server allows 14: lower pool_size or max_overflow, or raise max_connections"
        )
        with admin.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} CONNECTION LIMIT 12")
        assert "the server allows 12" in db.check()[0].message
    finally:
        db.close()
        with admin.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
            connection.exec_driver_sql(f"DROP ROLE {name}")


def test_check_without_a_pool() -> None:
    """Behind a pooler there is nothing to compare: the check says who has to have a limit instead."""
    db = DatabaseConnectionManager("sqlite://", engine_options={"poolclass": NullPool})
    assert ["warning", "ok"] == [finding.level for finding in db.check()]
    assert "whatever pools outside" in db.check()[0].message
    db.close()


def test_check_reads_the_workers_from_the_environment(
    shared_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `workers` the environment's WEB_CONCURRENCY counts; nonsense in it does not."""
    db = DatabaseConnectionManager(shared_postgres)
    for value, workers in (("2", "2 workers"), ("many", "1 worker"), ("0", "1 worker")):
        monkeypatch.setenv("WEB_CONCURRENCY", value)
        assert f" × {workers} × " in next(one for one in db.check() if one.topic == "pool size").message
    for wrong in (0, 1.5, True):
        with pytest.raises((TypeError, ValueError), match="workers"):
            db.check(workers=wrong)
    db.close()


def test_check_of_a_database_that_is_not_there() -> None:
    """A database that cannot be reached is a finding, and leaks no password."""
    db = DatabaseConnectionManager("postgresql+psycopg://u:s3cret@127.0.0.1:1/studio")
    (finding,) = db.check()
    assert ("error", "connection") == (finding.level, finding.topic)
    assert "s3cret" not in finding.message
    db.close()


def test_check_of_both_colours() -> None:
    """SQLite has no limit to compare with; an async manager is checked by `acheck`."""
    db = DatabaseConnectionManager("sqlite://")
    assert ["ok", "ok"] == [finding.level for finding in db.check()]
    db.close()

    async def scenario() -> None:
        adb = DatabaseConnectionManager("sqlite+aiosqlite://")
        assert ["ok", "ok"] == [finding.level for finding in await adb.acheck()]
        with pytest.raises(TypeError, match="acheck"):
            adb.check()
        await adb.aclose()

    asyncio.run(scenario())
