"""The same boundaries without naming a manager."""

import asyncio
import gc
from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy import text

from paintkit import ambient
from paintkit.errors import NoUnitOfWorkError
from paintkit.sqlalchemy import DatabaseConnectionManager, on_commit, read_only, with_database_session
from paintkit.sqlalchemy.registry import managers


@pytest.fixture(autouse=True)
def _no_managers() -> Iterator[None]:
    """Begin with no manager in use, whatever other tests have left to the garbage collector."""
    gc.collect()
    left = list(managers)
    managers.clear()
    yield
    managers.update(left)


@with_database_session
def opened() -> object:
    return ambient.unit_of_work.get()


def test_the_only_manager_is_meant() -> None:
    """With one manager in use the free decorator acts on it, found at the call: it may be younger than the function."""
    with pytest.raises(RuntimeError, match="no DatabaseConnectionManager"):
        opened()
    db = DatabaseConnectionManager("sqlite://")
    assert opened().label is db
    db.close()
    with pytest.raises(RuntimeError, match="no DatabaseConnectionManager"):
        opened()


def test_several_managers_need_a_name() -> None:
    """With several managers in use the error names the fix."""
    one, two = DatabaseConnectionManager("sqlite://"), DatabaseConnectionManager("sqlite://")
    with pytest.raises(RuntimeError, match=r"@db\.with_database_session"):
        opened()
    one.close()
    assert opened().label is two
    two.close()


def test_the_current_apps_manager_comes_first() -> None:
    """In an app context the app's manager is meant, however many there are."""
    apps = [Flask(str(number)) for number in range(2)]
    for app in apps:
        app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    databases = [DatabaseConnectionManager(app) for app in apps]
    for app, db in zip(apps, databases, strict=True):
        with app.app_context():
            assert opened().label is db
    for db in databases:
        db.close()


def test_read_only_is_a_unit_that_reads() -> None:
    """`read_only` is `with_database_session(read_only=True)`."""
    db = DatabaseConnectionManager("sqlite://")

    @read_only
    def report() -> int:
        return db.session.scalar(text("SELECT 2"))

    @read_only
    def mistake() -> None:
        db.session.execute(text("CREATE TABLE a (id INTEGER)"))

    assert 2 == report()
    with pytest.raises(NoUnitOfWorkError, match="read-only"):
        mistake()
    db.close()


def test_on_commit_takes_the_open_unit() -> None:
    """`on_commit` waits for the innermost open unit of work, of whichever manager."""
    seen: list[str] = []
    one, two = DatabaseConnectionManager("sqlite://"), DatabaseConnectionManager("sqlite://")
    with one.unit_of_work():
        with two.unit_of_work():
            on_commit(lambda: seen.append("two"))
            assert [] == seen
        assert ["two"] == seen
        on_commit(lambda: seen.append("one"))
    assert ["two", "one"] == seen
    one.close()
    two.close()


def test_options_are_checked_at_decoration() -> None:
    """A wrong option of the free decorator raises at decoration, before there is any manager."""
    with pytest.raises(ValueError, match="propagation"):
        with_database_session(propagation="sometimes")


def test_wrong_colour_is_refused_at_the_call() -> None:
    """A free decorator does not know its manager yet: the wrong colour is refused when it does."""
    db = DatabaseConnectionManager("sqlite+aiosqlite://")
    with pytest.raises(TypeError, match="async"):
        opened()
    asyncio.run(db.aclose())
