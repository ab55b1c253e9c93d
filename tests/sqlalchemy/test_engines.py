"""What a dialect needs before a unit of work can rely on it."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from paintkit.sqlalchemy import DatabaseConnectionManager
from tests.sqlalchemy.house import Base, Paint
from tests.sqlalchemy.servers import PATIENCE


def pragma(db: DatabaseConnectionManager, name: str) -> object:
    with db.engine.connect() as connection:
        return connection.scalar(text(f"PRAGMA {name}"))


def test_sqlite_file_is_tuned(tmp_path: Path) -> None:
    """A SQLite file enforces foreign keys, lets readers and the writer work at once, and waits for locks."""
    db = DatabaseConnectionManager(f"sqlite:///{tmp_path / 'paints.db'}")
    assert (1, "wal", 5000) == tuple(
        pragma(db, name) for name in ("foreign_keys", "journal_mode", "busy_timeout")
    )
    db.close()


def test_foreign_keys_hold_in_memory() -> None:
    """In memory foreign keys hold as well."""
    db = DatabaseConnectionManager("sqlite://")
    with db.unit_of_work() as session:
        session.execute(text("CREATE TABLE a (id INTEGER PRIMARY KEY)"))
        session.execute(text("CREATE TABLE b (a INTEGER REFERENCES a)"))
    with pytest.raises(IntegrityError), db.unit_of_work() as session:
        session.execute(text("INSERT INTO b VALUES (7)"))
    db.close()


def test_read_only_file_stays_as_it_is(tmp_path: Path) -> None:
    """A database that is opened read-only is not asked to change its journal."""
    path = tmp_path / "paints.db"
    made = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(made)
    made.dispose()
    db = DatabaseConnectionManager(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert "delete" == pragma(db, "journal_mode")
    db.close()


def test_memory_is_one_database_for_all_threads() -> None:
    """A memory database is the same in every thread, with a transaction of its own for each."""
    db = DatabaseConnectionManager("sqlite://")
    Base.metadata.create_all(db.engine)
    first, second = threading.Event(), threading.Event()
    seen: list[int] = []

    def count() -> int:
        with db.unit_of_work(read_only=True) as session:
            return session.query(Paint).count()

    def other() -> None:
        first.wait(PATIENCE)
        seen.append(count())
        second.set()

    thread = threading.Thread(target=other)
    thread.start()
    with db.unit_of_work() as session:
        session.add(Paint(name="a"))
    first.set()
    assert second.wait(PATIENCE)
    thread.join()
    assert [1] == seen
    db.close()


def test_memory_databases_are_apart_and_outlive_their_pool() -> None:
    """Each manager has a memory database of its own, which survives that all pooled connections are closed."""
    one, two = DatabaseConnectionManager("sqlite://"), DatabaseConnectionManager("sqlite:///:memory:")
    with one.unit_of_work() as session:
        session.execute(text("CREATE TABLE only_here (id INTEGER)"))
    one.engine.dispose()
    tables = "SELECT count(*) FROM sqlite_master"
    with one.engine.connect() as mine, two.engine.connect() as theirs:
        assert (1, 0) == (mine.scalar(text(tables)), theirs.scalar(text(tables)))
    one.close()
    two.close()


def test_given_engine_gets_begin_control() -> None:
    """An engine that was made elsewhere, and used before, keeps its options and still rolls released savepoints back."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    db = DatabaseConnectionManager(engine)
    assert engine is db.engine
    with pytest.raises(KeyError), db.unit_of_work():
        with db.unit_of_work(propagation="nested") as session:
            session.add(Paint(name="a"))
        raise KeyError
    with db.unit_of_work() as session:
        assert 0 == session.query(Paint).count()
    engine.dispose()


def test_every_new_engine_is_prepared() -> None:
    """An engine that happens to take the place of a dead one in memory gets its own listeners, each once."""
    for number in range(50):
        engine = create_engine("sqlite://")
        db = DatabaseConnectionManager(engine)
        DatabaseConnectionManager(engine)
        with db.unit_of_work() as session:
            assert (number, True) == (number, session.connection().connection.dbapi_connection.in_transaction)
        assert (number, 1, 2) == (  # a unit of work hears of an error, and who lacks a table of ours is told
            number,
            len(engine.dispatch.begin),
            len(engine.dialect.dispatch.handle_error),
        )
        engine.dispose()


def test_begin_control_survives_autocommit() -> None:
    """A connection that was used in autocommit meanwhile still begins when SQLAlchemy says so."""
    db = DatabaseConnectionManager("sqlite://")
    Base.metadata.create_all(db.engine)
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(Paint.__table__.insert().values(name="kept", stock=0, edits=0))
    with pytest.raises(KeyError), db.unit_of_work():
        with db.unit_of_work(propagation="nested") as session:
            session.add(Paint(name="lost"))
        raise KeyError
    with db.unit_of_work() as session:
        assert ["kept"] == [paint.name for paint in session.query(Paint)]
    db.close()
