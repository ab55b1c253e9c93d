"""Beside Flask-SQLAlchemy and Flask-SQLAlchemy-Lite: one pool, and inside a unit of work one session."""

import asyncio
import importlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import MetaData, event, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Query, mapped_column

from paintkit import CacheManager, NoUnitOfWorkError
from paintkit.sqlalchemy import DatabaseConnectionManager, FromCache, QueryCache, flask_extensions
from tests.sqlalchemy.house import Base, Paint

NAMES = select(Paint.name).order_by(Paint.id)


class Shop:
    """An app of either extension, with routes that use their session, ours, and both."""

    def __init__(self, extension: str, url: str) -> None:
        self.app = Flask("shop")
        self.app.config.update(SQLALCHEMY_DATABASE_URI=url, SQLALCHEMY_ENGINES={"default": url}, TESTING=True)
        self.theirs = importlib.import_module(extension).SQLAlchemy()
        self.theirs.init_app(self.app)
        with self.app.app_context():
            self.db = DatabaseConnectionManager(self.theirs)
            Base.metadata.drop_all(self.db.engine)
            Base.metadata.create_all(self.db.engine)
        self.queries = QueryCache(self.db, CacheManager())
        self.told: list[str] = []
        self.app.add_url_rule("/ours/<name>", view_func=self.ours, methods=["POST"])
        self.app.add_url_rule("/theirs/<name>", view_func=self.theirs_only, methods=["POST"])
        self.app.add_url_rule("/both/<name>", view_func=self.both, methods=["POST"])
        self.app.add_url_rule("/names", view_func=self.names)
        self.client = self.app.test_client()

    def ours(self, name: str) -> tuple[str, int]:
        with self.db.unit_of_work() as session:
            session.add(Paint(name=name))
            self.db.on_commit(lambda: self.told.append(name))
            if name == "bad":
                raise ValueError(name)
        return "", 204

    def theirs_only(self, name: str) -> tuple[str, int]:
        self.theirs.session.add(Paint(name=name))
        self.theirs.session.commit()
        return "", 204

    def both(self, name: str) -> dict[str, Any]:
        """Read through their session, write in a unit of ours, and read again through theirs."""
        before = list(self.theirs.session.scalars(NAMES))
        self.theirs.session.rollback()  # ends their snapshot, and gives SQLite's lock back
        self.ours(name)
        return {"before": before, "after": list(self.theirs.session.scalars(NAMES))}

    def names(self) -> list[str]:
        return list(self.db.session.scalars(NAMES.options(FromCache())))


@pytest.fixture(params=["flask_sqlalchemy", "flask_sqlalchemy_lite"])
def shop(request: pytest.FixtureRequest, url: str) -> Iterator[Shop]:
    shop = Shop(request.param, url)
    yield shop
    shop.db.close()


@pytest.fixture(params=["sqlite-file", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("shared_postgres"))
    return f"sqlite:///{tmp_path / 'shop.db'}"


def test_requests_of_all_kinds(shop: Shop) -> None:
    """Each request sees what the ones before have stored, by whichever session; hooks run after our commits alone."""
    assert 204 == shop.client.post("/ours/red").status_code
    assert 204 == shop.client.post("/theirs/blue").status_code
    assert ["red", "blue"] == shop.client.get("/names").json
    assert {"before": ["red", "blue"], "after": ["red", "blue", "pink"]} == shop.client.post(
        "/both/pink"
    ).json
    assert ["red", "blue", "pink"] == shop.client.get("/names").json
    assert ["red", "pink"] == shop.told
    assert 0 == shop.db.get_connection_stats()["checked_out"]


def test_a_failing_request_stores_nothing(shop: Shop) -> None:
    """A unit that fails rolls back, with its hook, and leaves their session as it was."""
    with pytest.raises(ValueError, match="bad"):
        shop.client.post("/ours/bad")
    shop.client.post("/theirs/blue")
    assert (["blue"], []) == (shop.client.get("/names").json, shop.told)


def test_what_their_session_writes_drops_cached_results(shop: Shop) -> None:
    """The query cache sees writes of their sessions, for they use the same engine."""
    shop.client.post("/theirs/blue")
    assert ["blue"] == shop.client.get("/names").json
    with shop.app.app_context():
        shop.theirs.session.execute(update(Paint).values(name="azure"))
        shop.theirs.session.commit()
    assert ["azure"] == shop.client.get("/names").json


# Inside a unit of work their session is the unit's.


class TestJoining:
    """Their session while a unit of work is open, and right after it."""

    @pytest.mark.parametrize("fault", [None, "their session stays apart"])
    def test_a_decorated_view_stores_what_it_adds_to_their_session(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, fault: str | None
    ) -> None:
        """What a view adds there is stored by the unit around it, with its hook, or not at all."""

        @shop.db.with_database_session
        def add(name: str) -> tuple[str, int]:
            shop.theirs.session.add(Paint(name=name))
            shop.db.on_commit(lambda: shop.told.append(name))
            return "", 409 if name == "bad" else 204

        shop.app.add_url_rule("/joined/<name>", view_func=lambda name: shop.app.make_response(add(name)))
        if fault:
            monkeypatch.setattr(flask_extensions._Finder, "of_unit", lambda _finder: None)
        shop.client.get("/joined/red")
        names = shop.client.get("/names").json
        assert ([] if fault else ["red"], ["red"]) == (names, shop.told)

    def test_a_failure_takes_along_what_their_session_wrote(self, shop: Shop) -> None:
        """A rollback is of everything in the unit, by whichever name its session was called."""
        with shop.app.app_context(), pytest.raises(LookupError), shop.db.unit_of_work() as session:
            session.add(Paint(name="red"))
            shop.theirs.session.add(Paint(name="blue"))
            shop.theirs.session.flush()
            assert ["red", "blue"] == list(session.scalars(NAMES))
            raise LookupError
        assert [] == shop.client.get("/names").json

    def test_units_within_units(self, shop: Shop) -> None:
        """Each unit has its own; the one around it is back when it ends, and theirs when all have ended."""
        with shop.app.app_context():
            own = here(shop)
            with shop.db.unit_of_work() as outer:
                with shop.db.unit_of_work(propagation="requires_new") as inner:
                    assert inner is here(shop) is not outer
                    shop.theirs.session.add(Paint(name="inner"))
                assert outer is here(shop)
                with pytest.raises(LookupError), shop.db.unit_of_work(propagation="nested") as same:
                    assert same is here(shop) is outer
                    shop.theirs.session.add(Paint(name="lost"))
                    shop.theirs.session.flush()
                    raise LookupError
                shop.theirs.session.add(Paint(name="outer"))
                shop.db.on_commit(lambda: shop.told.append(str(here(shop) is own)))
            assert own is here(shop)
        assert (["inner", "outer"], ["True"]) == (shop.client.get("/names").json, shop.told)

    def test_a_generator_joins_while_its_body_runs(self, shop: Shop) -> None:
        """Between two items their session is theirs again."""

        @shop.db.with_database_session
        def add_all(names: Iterable[str]) -> Iterator[Any]:
            for name in names:
                shop.theirs.session.add(Paint(name=name))
                yield here(shop)

        with shop.app.app_context():
            own = here(shop)
            units = []
            for one in add_all(["red", "blue"]):
                units.append(one)
                assert own is here(shop)
            assert units[0] is units[1] is not own
        assert ["red", "blue"] == shop.client.get("/names").json

    def test_another_thread_does_not_get_it(self, shop: Shop) -> None:
        """Nor does a thread that inherited the context: it is told so, as by `db.session`."""
        with shop.app.app_context(), shop.db.unit_of_work(), ThreadPoolExecutor(1) as threads:
            inherited = copy_context()
            with pytest.raises(NoUnitOfWorkError, match="another thread"):
                threads.submit(inherited.run, here, shop).result()

    def test_tasks_of_one_request_have_units_of_their_own(self, shop: Shop) -> None:
        """Units of several tasks that take turns in one app context do not get into each other's hands."""

        async def add(name: str, turn: asyncio.Event, next_turn: asyncio.Event) -> None:
            with shop.db.unit_of_work() as session:
                next_turn.set()
                await turn.wait()
                assert session is here(shop)
                shop.theirs.session.add(Paint(name=name))
            next_turn.set()

        async def both() -> None:
            first, second = asyncio.Event(), asyncio.Event()
            await asyncio.gather(add("red", first, second), add("blue", second, first))

        with shop.app.app_context():
            own = here(shop)
            asyncio.run(both())
            assert own is here(shop)
        assert {"red", "blue"} == set(shop.client.get("/names").json or ())

    def test_a_request_inside_a_unit_does_not_end_it(self, shop: Shop) -> None:
        """The end of a request closes their session, never the unit that is open around the request."""
        shop.app.add_url_rule("/peek", view_func=lambda: list(shop.theirs.session.scalars(NAMES)))
        with shop.app.app_context(), shop.db.unit_of_work() as session:
            session.add(Paint(name="red"))
            session.flush()
            assert ["red"] == shop.client.get("/peek").json
        assert ["red"] == shop.client.get("/names").json

    def test_only_the_unit_commits(self, shop: Shop) -> None:
        """A commit by hand is refused with what to do instead."""
        with shop.app.app_context(), shop.db.unit_of_work():
            shop.theirs.session.add(Paint(name="red"))
            with pytest.raises(RuntimeError, match="flush"):
                shop.theirs.session.commit()
        assert ["red"] == shop.client.get("/names").json

    def test_their_listeners_and_options_count(self, shop: Shop) -> None:
        """The session of a unit is one of theirs: what listens to theirs hears of it."""
        with shop.app.app_context():
            target = getattr(shop.theirs.session, "session_factory", None) or shop.theirs.sessionmaker
            heard: list[str] = []
            event.listen(
                target, "before_flush", lambda session, *_: heard.extend(one.name for one in session.new)
            )
            with shop.db.unit_of_work():
                shop.theirs.session.add(Paint(name="red"))
            kind = target.class_
            with shop.db.unit_of_work() as session:
                assert isinstance(session, kind)
                assert isinstance(session.query(Paint), target.kw.get("query_cls", Query))
        assert ["red"] == heard

    def test_a_change_of_what_they_had_loaded_before_is_told(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An object of their own session is no part of the unit: who changes it inside is told, once, and how to do it."""
        shop.client.post("/ours/red")
        with shop.app.app_context():
            red = shop.theirs.session.scalars(select(Paint)).one()
            shop.theirs.session.rollback()
            with shop.db.unit_of_work():
                red.stock = 5
            with shop.db.unit_of_work() as session:
                session.add(Paint(name="blue"))
            told = [message for message in caplog.messages if "merge()" in message]
            assert [True] == ["a Paint" in message for message in told]

    def test_each_app_of_an_extension_has_its_own_manager(self, shop: Shop, tmp_path: Path) -> None:
        """A unit of one app's manager is nothing to another app of the same extension."""
        other = Flask("other")
        url = f"sqlite:///{tmp_path / 'other.db'}"
        other.config.update(SQLALCHEMY_DATABASE_URI=url, SQLALCHEMY_ENGINES={"default": url})
        shop.theirs.init_app(other)
        with other.app_context():
            db = DatabaseConnectionManager(shop.theirs)
            with shop.db.unit_of_work() as ours, db.unit_of_work() as session:
                assert session is here(shop)
                with shop.app.app_context():
                    assert ours is here(shop)
            db.close()


def here(shop: Shop) -> Any:
    """The very session that theirs is at this place."""
    session = shop.theirs.session
    return session() if callable(session) else session


class Elsewhere(DeclarativeBase):
    """Tables of a second database, as Flask-SQLAlchemy marks them."""

    metadata = MetaData(info={"bind_key": "archive"})


class Letter(Elsewhere):
    """A table there."""

    __tablename__ = "letter"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.mark.parametrize("extension", ["flask_sqlalchemy", "flask_sqlalchemy_lite"])
def test_a_unit_is_of_one_database(extension: str, tmp_path: Path) -> None:
    """A table of another bind key is refused in a unit, not looked for in the wrong database; outside it is theirs."""
    urls = {name: f"sqlite:///{tmp_path / name}.db" for name in ("default", "archive")}
    app = Flask("shop")
    app.config.update(
        SQLALCHEMY_DATABASE_URI=urls["default"],
        SQLALCHEMY_BINDS={"archive": urls["archive"]},
        SQLALCHEMY_ENGINES=urls,
    )
    lite = extension == "flask_sqlalchemy_lite"
    options = {"session_options": {"binds": {Elsewhere: "archive"}}} if lite else {}
    theirs = importlib.import_module(extension).SQLAlchemy(app, **options)
    with app.app_context():
        Elsewhere.metadata.create_all(theirs.engines["archive"])
        db = DatabaseConnectionManager(theirs)
        for use in (
            lambda: theirs.session.scalars(select(Letter)).all(),
            lambda: theirs.session.execute(insert(Letter).values(id=1)),
        ):
            with pytest.raises(NoUnitOfWorkError, match="one database"), db.unit_of_work():
                use()
        theirs.session.add(Letter(id=2))
        theirs.session.commit()
        archive = DatabaseConnectionManager(theirs.engines["archive"])
        with archive.unit_of_work() as session:
            assert [2] == list(session.scalars(select(Letter.id)))
        archive.close()
        db.close()
