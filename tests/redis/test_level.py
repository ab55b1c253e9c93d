"""The Redis level keeps the contract of second levels, with its server there and away."""

import contextlib
import socket
import uuid
from typing import ClassVar

import pytest
import redis

from paintkit import CacheManager
from paintkit.redis import RedisLevel, feeds
from paintkit.testing import CacheLevelContract, CacheLevelOutageContract, FakeClock
from tests import services
from tests.redis.conftest import PATIENCE, until
from tests.redis.proxy import Proxy


@pytest.fixture
def levels(monkeypatch):
    """Make levels that are closed in the end."""
    made = []
    # The contract is about a server that answers, however busy this machine is.
    monkeypatch.setattr(feeds, "_GRACE", PATIENCE)

    def make(url, **options):
        made.append(RedisLevel(url, timeout=10.0, **options))
        return made[-1]

    yield make
    for level in made:
        level.close()


class OnOneServer:
    """Two processes' levels on the server that everybody uses, under a prefix of their own."""

    options: ClassVar = {}

    @pytest.fixture
    def prefix(self):
        url = services.place("redis")
        name = f"paintkit-test-{uuid.uuid4().hex}"
        yield name
        with redis.Redis.from_url(url) as client:
            for key in client.scan_iter(f"{name}:*"):
                client.delete(key)

    @pytest.fixture
    def level(self, levels, prefix):
        return levels(services.place("redis"), prefix=prefix, **self.options)

    @pytest.fixture
    def other(self, levels, prefix):
        return levels(services.place("redis"), prefix=prefix, **self.options)


class TestRedisLevel(OnOneServer, CacheLevelContract):
    """As it comes."""


class TestRedisLevelWithChannels(OnOneServer, CacheLevelContract):
    """Where streams are not to be had."""

    options: ClassVar = {"stream": False}


class Away:
    """Two processes' levels on one server; the network between it and the first can be cut."""

    options: ClassVar = {}

    @pytest.fixture
    def network(self, own_redis):
        network = Proxy(own_redis.port)
        yield network
        network.close()

    @pytest.fixture
    def level(self, levels, network):
        return levels(network.url, **self.options)

    @pytest.fixture
    def other(self, levels, own_redis):
        return levels(own_redis.url, **self.options)

    @pytest.fixture
    def outage(self, network, level):
        @contextlib.contextmanager
        def outage():
            until(lambda: level.is_connected)  # or we would not see it go
            network.cut()
            until(lambda: not level.is_connected)
            yield
            network.mend()

        return outage


class TestRedisLevelAway(Away, CacheLevelOutageContract):
    """As it comes."""


class TestRedisLevelWithChannelsAway(Away, CacheLevelOutageContract):
    """Where streams are not to be had."""

    options: ClassVar = {"stream": False}


def test_an_outage_is_told_once(levels, caplog):
    """However often the server is asked whether it is back, and in vain, the log has one line about it."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with FakeClock() as clock:
        cache = CacheManager("studio", level2=levels(f"redis://127.0.0.1:{port}"))
        paint = cache.cache_result()(_paint)
        for number in range(20):
            paint(number)
            clock.advance(0.5)
    assert 1 == sum(said.message.startswith("Redis does not answer") for said in caplog.records)


def _paint(number: int) -> int:
    return number
