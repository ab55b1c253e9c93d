"""Query caches of two processes: results stay in the memory of each, word of what was written goes through Redis."""

import contextlib

import pytest
from sqlalchemy import create_engine, insert

from paintkit.redis.member import Member
from paintkit.sqlalchemy import query_guard
from tests.redis.conftest import until
from tests.redis.query_worker import Shelf, Worker, metadata, paint

# Seconds in which a word arrives; what is lost is noticed when the link is back.
LAG = 1.0


@pytest.fixture
def file(tmp_path):
    """A database with one row, written past all caches: what invalidates something would listen, too."""
    file = tmp_path / "paints.db"
    engine = create_engine(f"sqlite:///{file}")
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(paint).values(id=1, stock=1))
    engine.dispose()
    return file


@pytest.fixture
def shelf(own_redis, file):
    """This process's query cache, which only reads."""
    shelf = Shelf(own_redis.url, file)
    yield shelf
    shelf.close()


def read(shelf):
    """Fill the cache; by that alone it begins to listen."""
    assert 1 == shelf.stock()
    until(lambda: shelf.level.is_connected)
    assert 1 == shelf.stock()
    with query_guard(max_queries=0):
        assert 1 == shelf.stock()


@pytest.mark.parametrize("known", [True, False], ids=["a table", "text"])
def test_a_commit_elsewhere_drops_what_is_cached_here(shelf, own_redis, file, known):
    """Within the link's delay, with no time to live to help; the machine may pause now and then, but not each time."""
    read(shelf)
    delays = []
    with Worker(own_redis.url, file) as other:
        for stock in range(2, 7):
            other.write(stock, known=known)
            delays.append(until(lambda stock=stock: shelf.stock() == stock))
    assert min(delays) < LAG


def test_what_was_lost_with_the_server_does_not_stay(shelf, own_redis, file):
    """A server that forgets what it was told leaves nobody with an old result once it is back."""
    read(shelf)
    with Worker(own_redis.url, file) as other:
        own_redis.kill()
        until(lambda: not shelf.level.is_connected)
        other.write(2)
    own_redis.start()  # the other process is gone, and has told nobody
    until(lambda: shelf.stock() == 2)


def test_without_listening_nothing_would_be_heard(own_redis, file, monkeypatch):
    """The fault that these tests have to find: what is looked up nowhere makes no connection by itself."""
    monkeypatch.setattr(Member, "listen", lambda _member: None)
    with contextlib.closing(Shelf(own_redis.url, file)) as shelf:
        assert 1 == shelf.stock()
        with Worker(own_redis.url, file) as other:
            other.write(2)
        with pytest.raises(AssertionError):
            until(lambda: shelf.stock() == 2, 0.5)
