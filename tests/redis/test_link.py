"""What a Redis level does around its calls.

It connects late, begins anew after a fork, ends when it is dropped, and keeps what it could not tell.
"""

import asyncio
import gc
import logging
import os
import re
import threading
import time
import uuid
import weakref
from pathlib import Path

import pytest
import redis

from paintkit import CacheManager, clock
from paintkit._runtime import Success, drive
from paintkit.cache.levels import Place
from paintkit.machines.breaker import CircuitState
from paintkit.redis import RedisLevel, feeds
from paintkit.redis.feeds import StreamFeed
from paintkit.redis.kept import Change, Kept
from paintkit.redis.member import Member
from paintkit.redis.names import ALL, Names
from tests import services
from tests.redis.conftest import PATIENCE, until


class Ears:
    """A cache that notes what it hears."""

    def __init__(self):
        self.heard, self.gaps = [], 0

    def changed(self, mark):
        self.heard.append(mark)

    changed_at = changed

    def gap(self):
        self.gaps += 1


def price(paint: str) -> int:
    raise NotImplementedError


PLACE = Place(key="shop.price:red", canonical=b"red", marks=(ALL, "f:shop.price"))


class Shop:
    """One level with one cache, and blocking calls."""

    def __init__(self, url, **options):
        self.level = RedisLevel(url, **({"timeout": 10.0} | options))
        self.ears = Ears()
        self.member = self.level.join("shop", self.ears)
        self.codec = self.level.codec(price)

    def look(self, known=None, place=PLACE):
        return drive(self.member.blocking.look(place, self.codec, known))

    def fill(self, sight, value, place=PLACE, left=60.0):
        fill = self.member.blocking.fill
        return drive(fill(place, self.codec, sight, value, fresh=left, left=left, seconds=0.1))

    def drop(self, *changes):
        drive(self.member.blocking.drop(changes))

    def linked(self):
        self.look()
        until(lambda: clock.now() < self.member.trust.until)
        return self


@pytest.fixture
def shops(own_redis, monkeypatch):
    """Make processes' levels on a server of the test's own, whose links break only with their connections."""
    monkeypatch.setattr(feeds, "_GRACE", PATIENCE)
    made = []

    def make(url=own_redis.url, **options):
        made.append(Shop(url, **options))
        return made[-1]

    yield make
    for shop in made:
        shop.level.close()


@pytest.fixture
def client(own_redis):
    """An operator's client."""
    with redis.Redis.from_url(own_redis.url) as client:
        yield client


def connections(client):
    return len(client.client_list()) - 1


def ever_connected(client):
    return client.info("stats")["total_connections_received"]


def links():
    return {thread for thread in threading.enumerate() if thread.name == "cache-link"}


# --- Beginning and end ---


def test_nothing_is_connected_before_the_first_look(shops, client):
    """Not by making a level, nor by joining."""
    before, known = links(), ever_connected(client)
    shop = shops()
    time.sleep(0.05)
    assert ever_connected(client) == known
    assert links() <= before
    shop.look()
    assert ever_connected(client) > known


def test_closing_ends_thread_and_connections(shops, client):
    """And the cache goes on without."""
    before = links()
    shop = shops().linked()
    shop.level.close()
    until(lambda: connections(client) == 0)
    until(lambda: links() <= before)
    assert shop.look().version is None
    shop.drop(PLACE)
    assert shop.member.trust.until < clock.now()


def test_a_level_that_nobody_uses_ends(own_redis):
    """With its cache, for the thread holds on to neither."""
    before = links()
    level = RedisLevel(own_redis.url)
    cache = CacheManager("gone", level2=level)

    @cache.cache_result()
    def paint(name: str) -> int:
        return 7

    assert paint("red") == 7
    assert level.wait_until_connected(PATIENCE)
    gone = weakref.ref(level)

    del level, cache, paint

    def is_gone():
        gc.collect()
        return gone() is None

    until(is_gone)  # the thread may have its hands on the cache at any one moment
    until(lambda: links() <= before)


def test_a_forked_child_begins_anew(shops):
    """It trusts no copy before it has a link of its own, talks on connections of its own, and is another sender."""
    shop = shops().linked()
    shop.fill(shop.look(), 1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            trusted = clock.now() < shop.member.trust.until
            found = shop.look()
            until(lambda: clock.now() < shop.member.trust.until)
            shop.drop(PLACE)
            os.write(writing, repr((trusted, isinstance(found.value, Success))).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert os.read(reading, 100) == b"(False, True)"
    os.close(reading)
    until(lambda: shop.ears.heard == [PLACE.key])
    assert shop.look().value is None


def test_every_event_loop_has_its_own_connections(shops, client):
    """One after the other, and at the same time in threads; each closes them at its end."""
    shop = shops()

    async def scenario():
        sights = await asyncio.gather(*[shop.member.asyncio.look(PLACE, shop.codec) for _ in range(100)])
        return {sight.version for sight in sights}

    versions = set()
    threads = [threading.Thread(target=lambda: versions.update(asyncio.run(scenario()))) for _ in range(3)]
    versions.update(asyncio.run(scenario()))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(versions) == 1
    assert None not in versions
    until(lambda: connections(client) == 1)  # the link


# --- Faults of the server ---


def test_scripts_that_the_server_forgot_are_told_again(shops, client):
    """As after `SCRIPT FLUSH`, or on a replica that took over."""
    shop = shops().linked()
    client.script_flush()
    assert shop.fill(shop.look(), 1) is not None
    assert shop.look().value.value == 1


def test_connections_that_the_server_closed_cost_nothing(shops, client):
    """Those that were idle are replaced, and the call is made."""
    shop = shops().linked()
    client.client_kill_filter(_type="normal", skipme=True)
    assert shop.look().version is not None
    assert shop.level.stats()["errors"] == 0


def test_a_server_that_forbids_client_and_config_will_do(shops, client, own_redis):
    """T32: managed servers do."""
    client.acl_setuser(
        "app",
        enabled=True,
        passwords=["+secret"],
        keys=["*"],
        channels=["*"],
        commands=["+@all", "-client", "-config"],
    )
    url = own_redis.url.replace("redis://", "redis://app:secret@")
    shop, other = shops(url).linked(), shops(url).linked()
    assert shop.fill(shop.look(), 1) is not None
    other.drop(PLACE)
    until(lambda: shop.ears.heard == [PLACE.key])


@pytest.mark.parametrize("database", [0, 3])
def test_a_user_needs_little(shops, client, own_redis, database):
    """The permissions that the documentation names are enough."""
    rights, more = documented_rights()
    client.execute_command(*rights, *(more if database else ()))
    url = f"redis://cache:secret@127.0.0.1:{own_redis.port}/{database}"
    for stream in (True, False):
        shop, other = shops(url, stream=stream).linked(), shops(url, stream=stream).linked()
        assert shop.fill(shop.look(), 1) is not None
        other.drop(PLACE)
        until(lambda shop=shop: PLACE.key in shop.ears.heard)
        assert shop.level.stats()["errors"] == 0
        shop.level.close()
        other.level.close()


def documented_rights():
    """The command that makes the user, and what another database than 0 takes."""
    text = (Path(__file__).parents[2] / "docs" / "cache.md").read_text()
    found = re.search(r"`(ACL SETUSER [^`]*)`, and `([^`]*)` for a database", text)
    return [words.split() for words in found.groups()]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [("redis://nobody:wrong@127.0.0.1:{}/0", "password"), ("redis://127.0.0.1:{}/99", "DB index")],
    ids=["password", "database"],
)
def test_why_redis_is_not_to_be_had_is_told_once(shops, own_redis, caplog, wrong, why):
    """A server that refuses us does not answer either, and it knows the reason."""
    with caplog.at_level(logging.DEBUG, "paintkit.redis"):
        shops(wrong.format(own_redis.port)).look()

        def told():
            return [record for record in caplog.records if "waits for Redis" in record.message]

        until(lambda: len(told()) > 2)
    assert why in told()[0].message
    assert [record.levelno for record in told()[:3]] == [logging.WARNING, logging.DEBUG, logging.DEBUG]


def test_that_redis_is_away_is_told_once(shops, own_redis, caplog):
    """However long it is, and however often somebody tries."""
    shop = shops()
    own_redis.kill()
    for _ in range(3):
        shop.look()
    until(lambda: shop.level._breaker.state is CircuitState.HALF_OPEN)
    shop.look()
    assert shop.level._breaker.state is not CircuitState.CLOSED
    assert [record.message for record in caplog.records if "does not answer" in record.message] == [
        "Redis does not answer: caches serve from memory, and keep what they invalidate for later"
    ]


def test_a_token_that_was_evicted_invalidates(shops, client):
    """T28: what was filled under it is a miss, and so is what is filled late."""
    shop = shops().linked()
    shop.fill(shop.look(), 1)
    early = shop.look()
    client.delete(Names("paintkit", "shop").token("f:shop.price"))
    assert shop.look().value is None
    assert shop.fill(early, 2) is None


def test_a_token_that_is_gone_refuses_a_fill(shops, client):
    """T28: it is one answer more of the server, not an error that would open the circuit."""
    shop = shops().linked()
    early = shop.look()
    client.delete(Names("paintkit", "shop").token("f:shop.price"))
    assert shop.fill(early, 1) is None
    assert (shop.level.stats()["refused"], shop.level.stats()["errors"]) == (1, 0)


def test_an_invalidation_reaches_all_although_memory_is_full(shops, client):
    """P2: a server that may store nothing more still hears what is no longer true; new values stay out of it."""
    shop, other = shops().linked(), shops().linked()
    shop.fill(shop.look(), 1)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)

    other.drop(PLACE, "f:shop.price")

    until(lambda: shop.ears.heard == [PLACE.key, "f:shop.price"])
    assert other.level.stats()["errors"] == 0
    assert shop.look().value is None
    assert shop.fill(shop.look(), 2) is None


@pytest.mark.parametrize("stream", [True, False])
def test_who_speaks_in_another_way_is_missed_and_noticed(shops, stream):
    """All processes must agree about the stream; if they do not, copies are verified each time, and none is stale."""
    shop, other = shops(stream=stream).linked(), shops(stream=not stream).linked()
    gaps = shop.ears.gaps
    other.drop(PLACE)
    until(lambda: shop.ears.gaps > gaps)
    assert shop.ears.heard == []


def test_trust_begins_before_the_word(shops, monkeypatch):
    """P2: what is said while the link takes word in is not in it, so a copy's `lag` counts from before it asked."""
    began, vouched = [], []
    hear, vouch = StreamFeed.hear, Member.vouch

    def noted_hear(self, *what):
        began.append(clock.now())
        return hear(self, *what)

    def noted_vouch(self, heard, lag):
        vouched.append((heard, len(began)))
        vouch(self, heard, lag)

    monkeypatch.setattr(StreamFeed, "hear", noted_hear)
    monkeypatch.setattr(Member, "vouch", noted_vouch)
    shops().linked()
    until(lambda: len(vouched) > 3)
    assert vouched[0][1] == 0  # that of the greeting
    assert all(heard <= began[number - 1] for heard, number in vouched[1:])


def test_what_is_kept_bars_the_way(shops):
    """P4: what the server has not been told yet it would show."""
    shop = shops().linked()
    shop.fill(shop.look(), 1)
    assert isinstance(shop.look().value, Success)
    shop.member.kept.keep([Change("p", PLACE.key)])
    assert shop.look().value is None


def test_what_was_loaded_before_what_is_kept_fills_nothing(shops):
    """P4: nor may it stand there until the server is told."""
    shop = shops().linked()
    seen = shop.look()
    shop.member.kept.keep([Change("p", PLACE.key)])
    assert shop.fill(seen, 1) is None


def test_a_load_that_takes_too_long_fills_nothing(shops, client):
    """T24: who loads longer than allowed stores nothing, and takes nothing from those who came later."""
    shop = shops(longest_load=30.0)
    late = shop.look()
    pass_time(client, 30.0)
    newer = shop.look()
    assert shop.fill(newer, 2) is not None
    assert shop.fill(late, 1) is None
    assert shop.look().value.value == 2


def pass_time(client, seconds):
    """Let the place grow older, as it does in that time."""
    address = Names("paintkit", "shop").place(PLACE.key)
    client.pexpire(address, client.pttl(address) - round(seconds * 1000))


def test_a_load_that_outlasts_the_old_value_still_fills(shops, client):
    """The place stands longer than its value is of use, for just that."""
    shop = shops(longest_load=500.0)
    shop.fill(shop.look(), 1, left=600.0)
    seen = shop.look()
    assert isinstance(seen.value, Success)
    pass_time(client, 610.0)
    assert shop.look().value is None
    assert shop.fill(seen, 2) is not None


def test_an_answer_older_than_the_invalidation_fills_nothing(shops):
    """T25: it was on its way when the invalidation was told."""
    shop, other = shops().linked(), shops().linked()
    sight = shop.look()
    other.drop(PLACE)
    until(lambda: shop.ears.heard == [PLACE.key])
    assert shop.fill(sight, 1) is None


def test_an_invalidation_is_one_message(shops, client):
    """T26, T27: whatever the number of values under a mark; and nobody passes it on."""
    shop, other = shops().linked(), shops().linked()
    for number in range(50):
        place = Place(key=f"shop.price:{number}", canonical=b"%d" % number, marks=(ALL, "t:many"))
        shop.fill(shop.look(place=place), number, place)
    stream = Names("paintkit", "shop").stream
    before = client.xlen(stream)
    other.drop("t:many")
    until(lambda: shop.ears.heard == ["t:many"])
    time.sleep(0.05)
    assert client.xlen(stream) == before + 1


def test_everything_flushed_by_an_operator_is_noticed(shops, client):
    """`FLUSHALL` takes the messages' count with it."""
    shop = shops().linked()
    gaps = shop.ears.gaps
    shop.drop("t:warm")
    client.flushall()
    until(lambda: shop.ears.gaps > gaps)
    until(lambda: clock.now() < shop.member.trust.until)


def test_word_that_is_flushed_before_it_is_heard_is_missed(shops, client, monkeypatch):
    """P2: the count is what it was for who has heard nothing, but the server is another one that forgot."""
    shop, other = shops().linked(), shops().linked()
    waiting, go_on, hear = set(), threading.Event(), StreamFeed.hear

    def late_hear(self, *what):
        waiting.add(self)
        go_on.wait(PATIENCE)
        return hear(self, *what)

    monkeypatch.setattr(StreamFeed, "hear", late_hear)
    until(lambda: len(waiting) == 2)
    gaps = shop.ears.gaps
    other.drop(PLACE)
    client.flushall()
    shops().look()  # who comes now greets the server before anybody else knows
    go_on.set()
    until(lambda: shop.ears.gaps > gaps)


def test_a_listener_that_fails_silences_nobody(shops):
    """What it did not take in counts as missed, and the link goes on."""
    shop, other = shops().linked(), shops().linked()
    calls = []

    def fail(mark):
        calls.append(mark)
        if len(calls) == 1:
            raise RuntimeError("a fault of the cache")
        shop.ears.heard.append(mark)

    shop.ears.changed = fail
    gaps = shop.ears.gaps
    other.drop("t:warm")
    until(lambda: calls == ["t:warm"])
    until(lambda: shop.ears.gaps > gaps)
    other.drop("t:cold")
    until(lambda: shop.ears.heard == ["t:cold"])


# --- What could not be told ---


def test_a_cancelled_invalidation_is_made_up_for(shops, own_redis):
    """The task is gone, the data has changed all the same."""
    shop, other = shops().linked(), shops().linked()

    async def scenario():
        await shop.member.asyncio.look(PLACE, shop.codec)
        own_redis.hang()
        dropping = asyncio.create_task(shop.member.asyncio.drop([PLACE]))
        await asyncio.sleep(0.01)
        dropping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dropping
        assert (await shop.member.asyncio.look(PLACE, shop.codec)).version is None
        own_redis.wake()

    asyncio.run(scenario())
    until(lambda: PLACE.key in other.ears.heard)
    until(lambda: shop.look().version is not None)


def test_what_is_kept_is_told_at_the_end(shops):
    """If the server is back by then: who closes will not say it later."""
    shop, other = shops().linked(), shops().linked()
    shop.fill(shop.look(), 1)
    shop.member.kept.keep([Change("p", PLACE.key)])
    shop.level.close()
    assert other.look().value is None
    until(lambda: other.ears.heard)
    # Twice, if the thread was about to say it: who closes cannot know whether that was heard.
    assert set(other.ears.heard) == {PLACE.key}


def test_what_is_kept_is_kept_once():
    """The latest of each; what changed again while it was told is told again."""
    kept = Kept()
    red, blue = Change("p", "red"), Change("m", "blue")
    kept.keep([red, blue, red])
    pending = kept.pending()
    assert list(pending) == [red, blue]
    kept.keep([blue])
    kept.told(pending)
    assert list(kept.pending()) == [blue]
    kept.told(kept.pending())
    assert not kept


def test_what_is_kept_is_bounded():
    """Beyond a thousand changes everything is dropped instead."""
    kept = Kept()
    kept.keep([Change("p", str(number)) for number in range(1_001)])
    assert list(kept.pending()) == [Change("m", ALL)]


def test_a_thousand_changes_are_told(shops):
    """In messages of a hundred."""
    shop, other = shops().linked(), shops().linked()
    names = [f"t:{uuid.uuid4()}" for _ in range(1_000)]
    shop.drop(*names)
    until(lambda: len(other.ears.heard) == 1_000)
    assert other.ears.heard == names


# --- Bad input ---


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"url": "http://localhost"}, ValueError, "url|Redis URL"),
        ({"url": 7}, TypeError, "url"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"lag": 0.1}, ValueError, "lag"),
        ({"longest_load": -1}, ValueError, "longest_load"),
        ({"max_bytes": 0}, ValueError, "max_bytes"),
        ({"compress_above": "1 kB"}, TypeError, "compress_above"),
        ({"serializer": "json"}, ValueError, "serializer"),
        ({"stream": 1}, TypeError, "stream"),
        ({"prefix": ""}, ValueError, "prefix"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, error, named):
    """With the argument's name."""
    with pytest.raises(error, match=named):
        RedisLevel(**({"url": "redis://localhost"} | options))


def test_a_name_with_braces_is_refused():
    """They would end the hash tag too early."""
    with pytest.raises(ValueError, match="braces"):
        RedisLevel("redis://localhost").join("a{b}", Ears())


def test_all_keys_of_a_cache_are_in_one_slot():
    """Of a cluster; long marks are known by their digest."""
    names = Names("paintkit", "shop")
    keys = [
        names.run,
        names.number,
        names.stream,
        names.place("a"),
        names.token("t:b"),
        names.token("t:" + "c" * 10_000),
    ]
    assert all(key.startswith(b"paintkit:{shop}:") for key in keys)
    assert all(len(key) < 300 for key in keys)
    assert len(set(keys)) == len(keys)


def test_a_mark_that_is_no_unicode_has_a_key():
    """A lone surrogate is a character of Python's strings."""
    assert Names("paintkit", "shop").token("t:\ud800") != Names("paintkit", "shop").token("t:?")


def test_the_server_of_everybody_is_enough():
    """The level works with the server as it comes with the machine."""
    shop = Shop(services.place("redis"), prefix=f"paintkit-test-{os.getpid()}")
    assert shop.look().version is not None
    shop.level.close()
    with redis.Redis.from_url(services.place("redis")) as client:
        client.delete(*client.keys(f"paintkit-test-{os.getpid()}:*"))
