"""The read session of a Flask app context, and the watch over its requests."""

import importlib
import logging
import threading
from collections.abc import Iterator

import pytest
from flask import Flask, copy_current_request_context
from sqlalchemy import Engine, event, insert, select, text

from paintkit.errors import NoUnitOfWorkError
from paintkit.sqlalchemy import DatabaseConnectionManager, PoolConfig
from paintkit.sqlalchemy.flask import query_budget
from paintkit.sqlalchemy.queries import _note
from tests.sqlalchemy.house import Base, Paint, told


@pytest.fixture(params=["sqlite-memory", "sqlite-file", "postgres"])
def app(request: pytest.FixtureRequest, tmp_path) -> Iterator[Flask]:
    """An app with one table and one row, over a pool of two connections."""
    app = Flask("studio")
    app.config["SQLALCHEMY_DATABASE_URI"] = {
        "sqlite-memory": lambda: "sqlite://",
        "sqlite-file": lambda: f"sqlite:///{tmp_path / 'paints.db'}",
        "postgres": lambda: request.getfixturevalue("shared_postgres"),
    }[request.param]()
    db = DatabaseConnectionManager(app, pool=PoolConfig(pool_size=1, max_overflow=1, pool_timeout=0))
    Base.metadata.drop_all(db.engine)
    Base.metadata.create_all(db.engine)
    with db.unit_of_work() as session:
        session.add(Paint(name="a"))
    yield app
    assert 0 == db.get_connection_stats()["checked_out"]
    db.close()


def manager(app: Flask) -> DatabaseConnectionManager:
    return app.extensions["paintkit.sqlalchemy"]


def test_reads_need_no_boundary(app: Flask) -> None:
    """In an app context `db.session` reads, always the same session; each context has its own, closed at its end."""
    db = manager(app)
    with app.app_context():
        first = db.session
        assert (["a"], True) == (list(first.scalars(select(Paint.name))), first is db.session)
        with app.app_context():
            assert first is not db.session
        assert 1 == db.get_connection_stats()["checked_out"]
    assert 0 == db.get_connection_stats()["checked_out"]
    with pytest.raises(NoUnitOfWorkError):
        _ = db.session


def test_writes_are_refused_with_the_fix(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """Flush, commit, autoflush and DML outside of a unit of work are refused; lost changes are logged at the end."""
    db = manager(app)
    with app.app_context(), caplog.at_level(logging.ERROR, "paintkit.sqlalchemy"):
        db.session.add(Paint(name="b"))
        for write in (
            db.session.flush,
            db.session.commit,
            lambda: db.session.scalars(select(Paint)),
            lambda: db.session.execute(text("DELETE FROM paint")),
            lambda: db.session.execute(Paint.__table__.delete()),
        ):
            with pytest.raises(NoUnitOfWorkError, match="with_database_session"):
                write()
    assert "changes are lost" in caplog.text
    with db.engine.connect() as connection:
        assert ["a"] == list(connection.scalars(select(Paint.name)))


def test_no_way_around_leads_to_a_write(app: Flask) -> None:
    """Neither the bulk methods, nor the connection, nor a statement that writes in passing change anything; nothing stays open."""
    db = manager(app)
    row = {"name": "b", "stock": 0, "edits": 0}
    with app.app_context():
        session = db.session
        for write in (
            lambda: session.bulk_insert_mappings(Paint, [row]),
            lambda: session.bulk_save_objects([Paint(name="b")]),
            lambda: session.bulk_update_mappings(Paint, [{"id": 1, "name": "b"}]),
            lambda: session.connection().execute(insert(Paint).values(row)),
            lambda: session.connection().exec_driver_sql("DELETE FROM paint"),
            lambda: session.execute(text("EXPLAIN ANALYZE DELETE FROM paint")),
            session.begin_nested,
        ):
            with pytest.raises(NoUnitOfWorkError, match="with_database_session"):
                write()
        assert ["a"] == list(session.connection().execute(select(Paint.name)).scalars())
        assert 1 == session.scalar(text("/* all */ WITH red AS (SELECT 1 AS n) SELECT n FROM red"))


def test_a_read_session_ends_with_its_context(app: Flask) -> None:
    """Whoever keeps it is refused afterwards, and holds no connection."""
    with app.app_context():
        kept = manager(app).session
        kept.scalars(select(Paint)).all()
    for act in (lambda: kept.scalar(text("SELECT 1")), lambda: kept.add(Paint(name="b")), kept.connection):
        with pytest.raises(NoUnitOfWorkError, match="has ended"):
            act()


def test_a_clean_end_is_quiet(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """A context that only read logs nothing."""
    with app.app_context():
        manager(app).session.scalars(select(Paint)).all()
    assert [] == told(caplog)


def test_no_snapshot_outlives_a_statement(app: Flask) -> None:
    """The read session sees what others have committed since its last statement."""
    db = manager(app)
    with app.app_context():
        assert 1 == db.session.scalar(text("SELECT count(*) FROM paint"))
        outside = threading.Thread(target=add, args=(db, "b"))
        outside.start()
        outside.join()
        assert 2 == db.session.scalar(text("SELECT count(*) FROM paint"))


def add(db: DatabaseConnectionManager, name: str) -> None:
    with db.unit_of_work() as session:
        session.add(Paint(name=name))


def test_a_unit_of_work_in_a_request_is_seen_after_it(app: Flask) -> None:
    """After a unit of work has stored something, the read session's objects are fresh."""
    db = manager(app)

    @app.post("/restock")
    def restock() -> dict[str, object]:
        paint = db.session.scalars(select(Paint)).one()
        with db.unit_of_work() as session:
            assert session is db.session
            session.get(Paint, paint.id).stock = 5
        return {"stock": paint.stock, "same": db.session.get(Paint, paint.id) is paint}

    assert {"stock": 5, "same": True} == app.test_client().post("/restock").json


def test_a_unit_of_work_never_waits_for_its_own_request(app: Flask) -> None:
    """The read session gives its connection back when a unit of work begins: one connection serves a whole request."""
    db = manager(app)
    with app.app_context():
        db.session.scalar(text("SELECT 1"))
        held = db.engine.connect()  # the pool has two: one is taken, one was the read session's
        with db.unit_of_work() as session:
            assert 1 == session.scalar(text("SELECT 1"))
        held.close()


def test_objects_stay_loaded_through_a_reading_unit(app: Flask) -> None:
    """A unit of work that wrote nothing costs the read session's objects nothing."""
    db = manager(app)
    statements: list[str] = []
    with app.app_context():
        paint = db.session.scalars(select(Paint)).one()
        with db.unit_of_work() as session:
            session.scalar(text("SELECT 1"))

        def note(_connection: object, _cursor: object, sql: str, *_: object) -> None:
            statements.append(sql)

        event.listen(db.engine, "before_cursor_execute", note)
        assert "a" == paint.name
        event.remove(db.engine, "before_cursor_execute", note)
    assert [] == statements


def test_error_view_rolls_back_and_closes(app: Flask) -> None:
    """A view that answers 400 or more, or raises, stores nothing; one that answers well does, before the answer leaves."""
    db = manager(app)

    @app.post("/paints/<name>/<int:status>")
    @db.with_database_session
    def create(name: str, status: int):
        db.session.add(Paint(name=name))
        if status == 599:
            raise ZeroDivisionError
        return app.response_class("told", status=status)

    client = app.test_client()
    for name, status in (("b", 201), ("c", 422), ("d", 500), ("e", 599)):
        client.post(f"/paints/{name}/{status}")
    with db.engine.connect() as connection:
        assert ["a", "b"] == sorted(connection.scalars(select(Paint.name)))


def test_read_session_is_bound_to_its_thread(app: Flask) -> None:
    """A thread that brings the request's context along cannot use its session."""
    db = manager(app)
    errors: list[BaseException] = []

    @app.get("/")
    def index() -> str:
        session = db.session
        session.scalar(text("SELECT 1"))

        def elsewhere() -> None:
            try:
                session.scalar(text("SELECT 1"))
            except NoUnitOfWorkError as error:
                errors.append(error)

        thread = threading.Thread(target=copy_current_request_context(elsewhere))
        thread.start()
        thread.join()
        return ""

    assert 200 == app.test_client().get("/").status_code
    assert 1 == len(errors)


def test_another_apps_context_is_none_of_ours(app: Flask) -> None:
    """In the context of an app that the manager is not attached to there is no read session; `init_app` attaches."""
    other = Flask("other")
    db = DatabaseConnectionManager("sqlite://")
    with app.app_context(), pytest.raises(NoUnitOfWorkError):
        _ = db.session
    db.init_app(other)
    with other.app_context():
        assert 1 == db.session.scalar(text("SELECT 1"))
    db.close()


@pytest.mark.parametrize("extension", ["flask_sqlalchemy", "flask_sqlalchemy_lite"])
def test_flask_extensions_lend_their_engine(extension: str) -> None:
    """The SQLAlchemy object of either Flask extension, in an app context, is a source: one pool for both."""
    app = Flask("studio")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    app.config["SQLALCHEMY_ENGINES"] = {"default": "sqlite://"}
    theirs = importlib.import_module(extension).SQLAlchemy()
    theirs.init_app(app)
    with pytest.raises(RuntimeError):
        DatabaseConnectionManager(theirs)
    with app.app_context():
        db = DatabaseConnectionManager(theirs)
        assert db.engine is theirs.engine
        Base.metadata.create_all(db.engine)
        add(db, "a")
        assert ["a"] == list(db.session.scalars(select(Paint.name)))
        with pytest.raises(ValueError, match="pool"):
            DatabaseConnectionManager(theirs, pool=PoolConfig())
    db.close()


def test_query_budget_tells_of_expensive_requests(caplog: pytest.LogCaptureFixture) -> None:
    """A request that goes over its route's budget, or loops, is logged with its route; none is failed, none is watched after."""
    app = Flask("studio")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = DatabaseConnectionManager(app)
    query_budget(app, max_queries=2, routes={"generous": 4})

    def ask(times: int) -> str:
        for number in range(times):
            db.session.execute(text(f"select {number}"))
        return "asked"

    app.add_url_rule("/ask/<int:times>", "strict", ask)
    app.add_url_rule("/generous/<int:times>", "generous", ask)
    client = app.test_client()

    def logged(path: str) -> str:
        caplog.clear()
        assert "asked" == client.get(path).text
        return "\n".join(record.getMessage() for record in told(caplog))

    assert "" == logged("/ask/2")
    assert "GET /ask/3 (strict): 3 statements ran and 2 are allowed" in logged("/ask/3")
    assert "" == logged("/generous/4")
    assert "one statement ran for each row" in logged("/generous/5")
    assert not event.contains(Engine, "before_cursor_execute", _note)
    db.close()


def test_query_budget_tells_of_routes_that_are_not_there(caplog: pytest.LogCaptureFixture) -> None:
    """Once, at the first request: by then all are registered, and no request is failed by a budget."""
    app = Flask("studio")
    query_budget(app, routes={"shelf": 2, "shelve": 2, "index": 3, "login": 1})
    for name in ("shelf", "catalogue.index"):
        app.add_url_rule(f"/{name}", name, str)
    with caplog.at_level(logging.WARNING, "paintkit.sqlalchemy"):
        for _ in range(2):
            assert 404 == app.test_client().get("/nowhere").status_code
            assert 200 == app.test_client().get("/shelf").status_code
    assert [
        "query_budget limits 'shelve', which is no endpoint of this app; did you mean 'shelf'?",
        "query_budget limits 'index', which is no endpoint of this app; did you mean 'catalogue.index'?",
        "query_budget limits 'login', which is no endpoint of this app; `flask routes` shows them all",
    ] == caplog.messages


def test_query_budget_refuses_what_is_no_limit() -> None:
    """A wrong limit raises when the watch is set up."""
    with pytest.raises(ValueError, match="max_queries"):
        query_budget(Flask("studio"), max_queries=-1)
    with pytest.raises(TypeError, match="max_queries"):
        query_budget(Flask("studio"), routes={"index": 1.5})
    with pytest.raises(TypeError, match="a route must be a string"):
        query_budget(Flask("studio"), routes={str: 3})
