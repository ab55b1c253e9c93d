"""Beside Flask-SQLAlchemy and Flask-SQLAlchemy-Lite: one pool, their sessions and our units of work in one request."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, update

from paintkit import CacheManager
from paintkit.sqlalchemy import DatabaseConnectionManager, FromCache, QueryCache
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


def test_their_session_is_apart_from_an_open_unit(shop: Shop) -> None:
    """Their session is a transaction of its own: it does not see what an open unit of ours has not yet committed."""
    with shop.app.app_context():
        with shop.db.unit_of_work() as session:
            session.add(Paint(name="red"))
            session.flush()
            assert [] == list(shop.theirs.session.scalars(NAMES))
            shop.theirs.session.rollback()
        assert ["red"] == list(shop.theirs.session.scalars(NAMES))
