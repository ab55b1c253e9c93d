"""Two processes of the studio behind one address: with Redis between them they show the same."""

import re
import time
from dataclasses import replace

import pytest

import paintkit.redis
from paintkit.redis import RedisLevel
from studio.app import create_app
from studio.catalogue.records import PaintFields
from tests.redis.conftest import until
from tests.studio.house import House, text_of

BLUE = PaintFields("Vallejo", "Model Color", "70.925", "Blue", "#0b3c7d")


# Seconds; what a machine that is not busy never needs.
PATIENCE = 60.0


class PatientLevel(RedisLevel):
    """Waits for what Redis says: what is shared, and kept in memory, does not depend on how fast it comes."""

    def __init__(self, url):
        super().__init__(url, timeout=10.0, lag=30.0)


@pytest.fixture(autouse=True)
def _long_patience(monkeypatch):
    monkeypatch.setattr(paintkit.redis, "RedisLevel", PatientLevel)


@pytest.fixture
def open_replica(open_house, config):
    """Opens one more process's worth of the studio; the administrator is there already."""
    houses = []

    def opened(redis_url):
        houses.append(House(create_app(replace(config, redis_url=redis_url))))
        return houses[-1]

    yield opened
    for house in houses:
        house.services.close()


def _rename(house, name):
    admin = house.admin()
    path = "/paints/1/edit"
    page = admin.get(path)
    fields = dict(BLUE._asdict(), name=name, version=1)
    answer = admin.send(path, fields, shown_on=path)
    assert answer.status_code == 303, page.text


def _shows(house, name, seconds):
    due = time.monotonic() + seconds
    while name not in house.visitor().get("/paints/1").text:
        if time.monotonic() > due:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_change_in_one_process_shows_in_the_other(open_replica, own_redis):
    one, other = open_replica(own_redis.url), open_replica(own_redis.url)
    one.stock_up([BLUE])
    assert _shows(other, "Blue", 0)
    _rename(one, "Night Sky")
    assert _shows(other, "Night Sky", PATIENCE)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_one_process_read_the_other_need_not(open_replica, own_redis):
    one, other = open_replica(own_redis.url), open_replica(own_redis.url)
    one.stock_up([BLUE])
    assert _shows(one, "Blue", 0)
    assert _shows(other, "Blue", 0)
    hits = other.services.kit.cache.get_stats()["level2_hits"]
    assert hits > 0
    shown = re.compile(rf"Shared cache Connected yes Looks \d+ Hits {hits} ")
    until(lambda: shown.search(text_of(other.admin().get("/admin/system").text)), PATIENCE)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_while_redis_is_away_the_studio_serves_and_says_so(open_replica, own_redis):
    """Pages come as ever; readiness and the system page tell that this process hears nothing of others."""
    house = open_replica(own_redis.url)
    house.stock_up([BLUE])
    visitor = house.visitor()
    until(lambda: (200, "ok", {"shared-cache": "ok"}) == _readiness(visitor), PATIENCE)
    own_redis.kill()
    until(lambda: not house.services.kit.shared_cache.is_connected, PATIENCE)
    assert _shows(house, "Blue", 0)
    until(lambda: (200, "degraded", {"shared-cache": "degraded"}) == _readiness(visitor), PATIENCE)
    assert "Shared cache Connected no" in text_of(house.admin().get("/admin/system").text)
    own_redis.start()
    until(lambda: (200, "ok", {"shared-cache": "ok"}) == _readiness(visitor), PATIENCE)


def _readiness(visitor):
    """What the studio says of itself; whoever is asked may be late once."""
    answer = visitor.get("/health/ready")
    return answer.status_code, answer.json["status"], answer.json["checks"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_change_made_while_redis_was_away_shows_when_it_is_back(open_replica, own_redis):
    """It is repeated to the others, whether or not Redis has kept anything; until then they show what they had."""
    one, other = open_replica(own_redis.url), open_replica(own_redis.url)
    one.stock_up([BLUE])
    assert other.services.kit.shared_cache.wait_until_connected(PATIENCE)
    assert _shows(other, "Blue", 0)
    own_redis.kill()
    until(lambda: not other.services.kit.shared_cache.is_connected, PATIENCE)
    _rename(one, "Night Sky")
    assert _shows(one, "Night Sky", 0)
    assert not _shows(other, "Night Sky", 0.2)
    own_redis.start()
    assert _shows(other, "Night Sky", PATIENCE)


def test_a_process_alone_shows_no_shared_cache(open_replica):
    assert "Shared cache" not in open_replica(None).admin().get("/admin/system").text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_check_notices_processes_that_share_nothing(open_replica):
    one, other = open_replica(None), open_replica(None)
    one.stock_up([BLUE])
    assert _shows(other, "Blue", 0)
    _rename(one, "Night Sky")
    assert not _shows(other, "Night Sky", 0.2)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_import_in_another_process_shows_at_once(open_replica, own_redis):
    """The command is a process, too: the studio that runs meanwhile shows what it has brought."""
    running, command = open_replica(own_redis.url), open_replica(own_redis.url)
    assert "No paint fits" in running.visitor().get("/paints").text
    command.stock_up([BLUE])
    command.services.close()  # as at the end of the command
    until(lambda: "Blue" in running.visitor().get("/paints").text, PATIENCE)
