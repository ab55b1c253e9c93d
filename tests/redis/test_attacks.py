"""What somebody who can write to Redis can do: make a value a miss. Nothing runs, nothing raises, nothing takes long."""

import asyncio
import contextlib
import functools
import os
import pickle
import struct
import tracemalloc
import zlib

import msgspec
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from paintkit._runtime import Success, drive
from paintkit.cache.levels import Place
from paintkit.redis import RedisLevel
from paintkit.redis.envelope import Envelopes, Front, Rejected, call_digest, vacancy, version
from paintkit.redis.names import Names
from tests import services
from tests.redis.conftest import until

KEY = b"the first secret"
OLD, UNKNOWN = b"an older secret!", b"somebody else's!"
CANONICAL = b"the call"
TOKENS = b"11111111" + b"22222222"
ADDRESS = b"p:address"


def front(**changes):
    """Make a front in order, but for the changes."""
    values = {
        "version": version(),
        "life": 60.0,
        "stale": 1.0,
        "grace": 2.0,
        "seconds": 0.5,
        "call": call_digest(CANONICAL),
    }
    return Front(**(values | {"tokens": TOKENS} | changes))


def envelopes(*keys, max_bytes=10_000):
    return Envelopes(max_bytes=max_bytes, compress_above=100, signing_keys=keys)


def reason(data, *keys, address=ADDRESS, canonical=CANONICAL, max_bytes=10_000):
    """Why an envelope is rejected; `None` if it is not."""
    try:
        envelopes(*keys, max_bytes=max_bytes).open(address, canonical, data)
    except Rejected as rejected:
        return rejected.reason
    return None


# --- The envelope alone ---


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["plain", "signed"])
@given(payload=st.binary(max_size=300) | st.binary(max_size=20).map(lambda some: some * 100))
def test_what_is_sealed_is_opened(keys, payload):
    """Compressed or not, signed or not."""
    sealed = envelopes(*keys).seal(ADDRESS, front(), payload)
    opened, taken = envelopes(*keys).open(ADDRESS, CANONICAL, sealed)
    assert taken == payload
    assert opened.tokens == TOKENS
    assert (opened.stale, opened.grace, opened.seconds) == (1.0, 2.0, 0.5)


@given(st.binary(max_size=400) | st.binary(max_size=400).map(lambda rest: version() + rest))
def test_random_bytes_are_rejected_or_harmless(data):
    """With a reason, and by no other error."""
    assert reason(data) in {"malformed", "other_call", "signature", "too_large"}
    assert reason(data, KEY) in {"malformed", "other_call", "signature", "too_large"}


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_breaks_the_signature(place, change):
    """Wherever it is."""
    data = bytearray(envelopes(KEY).seal(ADDRESS, front(), b"payload " * 50))
    data[place % len(data)] ^= change
    assert reason(bytes(data), KEY) is not None


def test_a_truncated_envelope_is_rejected():
    """At whatever byte, signed or compressed."""
    signed = envelopes(KEY).seal(ADDRESS, front(), b"payload")
    compressed = envelopes().seal(ADDRESS, front(), b"payload " * 100)
    for end in range(len(signed)):
        assert reason(signed[:end], KEY) in {"malformed", "signature"}
    for end in range(len(compressed)):
        assert reason(compressed[:end]) == "malformed"


def test_a_value_cannot_be_moved_to_another_key():
    """Its signature is for its address."""
    data = envelopes(KEY).seal(ADDRESS, front(), b"payload")
    assert reason(data, KEY) is None
    assert reason(data, KEY, address=b"p:another") == "signature"
    assert reason(data, KEY, canonical=b"another call") == "other_call"


def test_keys_can_be_changed():
    """The first signs, all verify; one that is not among them does not."""
    old = envelopes(OLD).seal(ADDRESS, front(), b"payload")
    assert reason(old, KEY, OLD) is None
    assert reason(old, KEY) == "signature"
    assert reason(envelopes(UNKNOWN).seal(ADDRESS, front(), b"payload"), KEY, OLD) == "signature"
    assert reason(envelopes(KEY, OLD).seal(ADDRESS, front(), b"payload"), KEY) is None


def test_who_signs_takes_nothing_unsigned():
    """And who does not, nothing that claims a signature."""
    assert reason(envelopes().seal(ADDRESS, front(), b"payload"), KEY) == "signature"
    assert reason(envelopes(KEY).seal(ADDRESS, front(), b"payload")) == "signature"


@pytest.mark.parametrize("span", ["life", "stale", "grace", "seconds"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e300])
def test_spans_are_not_believed(span, value):
    """A span that is none is rejected."""
    assert reason(envelopes().seal(ADDRESS, front(**{span: value}), b"payload")) == "malformed"


def bomb(size):
    """Bytes that decompress to so many, in an envelope."""
    plain = envelopes(max_bytes=2**30).seal(ADDRESS, front(), b"")
    return plain[:-1] + b"\x01" + zlib.compress(bytes(size), 9)


def test_a_zip_bomb_is_bounded():
    """No more is decompressed than the largest value."""
    data = bomb(50_000_000)
    tracemalloc.start()
    assert reason(data, max_bytes=1_048_576) == "too_large"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


# --- What stands in Redis ---


class Boom:
    def __reduce__(self):
        return (os.abort, ())


def nested(depth):
    return b"\x91" * depth + b"\xc0"


def paints() -> list[list]:
    raise NotImplementedError


@pytest.fixture
def shop():
    """A level, and a client of the attacker's."""
    with shop_at(services.place("redis")) as shop:
        yield shop


@contextlib.contextmanager
def shop_at(url):
    prefix = f"paintkit-attack-{os.getpid()}"
    with redis.Redis.from_url(url) as client:
        level = RedisLevel(url, prefix=prefix, timeout=5.0)
        yield Shop(level, client, Names(prefix, "shop"))
        level.close()
        for key in client.scan_iter(f"{prefix}:*"):
            client.delete(key)


class Silent:
    """A cache that does not listen."""

    def changed(self, mark):
        """Let it go."""

    changed_at = changed

    def gap(self):
        """Let it go."""


class Shop:
    def __init__(self, level, client, names):
        self.level, self.client, self.names = level, client, names
        self.member = level.join("shop", Silent())
        self.codec = level.codec(paints)

    def place(self, name="red"):
        return Place(key=f"shop.paints:{name}", canonical=name.encode(), marks=("all", "f:shop.paints"))

    def address(self, name="red"):
        return self.names.place(self.place(name).key)

    def look(self, name="red"):
        return drive(self.member.blocking.look(self.place(name), self.codec))

    def fill(self, value, name="red"):
        sight = self.look(name)
        return drive(
            self.member.blocking.fill(
                self.place(name), self.codec, sight, value, fresh=60.0, left=60.0, seconds=0.1
            )
        )

    def forge(self, payload, name="red", **changes):
        """Return an envelope around a payload, in order otherwise."""
        made = front(call=call_digest(name.encode()), tokens=b"".join(self.look(name).tokens), **changes)
        sealer = Envelopes(max_bytes=2**30, compress_above=2**30)
        return sealer.seal(self.address(name), made, payload)

    def plant(self, data, name="red"):
        self.client.set(self.address(name), data, px=60_000)

    def rejected(self):
        totals = self.level.stats().items()
        return {
            name.removeprefix("rejected_") for name, count in totals if name.startswith("rejected_") and count
        }


PAYLOADS = {
    "a pickle bomb": (lambda schema: pickle.dumps(Boom()), "schema"),
    "a pickle bomb with our schema": (lambda schema: schema + pickle.dumps(Boom()), "undecodable"),
    "nested for ever": (lambda schema: schema + nested(100_000), "undecodable"),
    "nested, and cut off": (lambda schema: schema + b"\x91" * 1_000_000, "undecodable"),
    "another type": (lambda schema: schema + msgspec.msgpack.encode({"a": 1}), "undecodable"),
    "a promise of four thousand millions of items": (
        lambda schema: schema + b"\xdd\xff\xff\xff\xff",
        "undecodable",
    ),
    "no payload": (lambda schema: b"", "schema"),
    "another schema": (lambda schema: b"12345678" + msgspec.msgpack.encode([[]]), "schema"),
    "an extension": (lambda schema: schema + b"\x91\x91\xc7\x01\x05a", "undecodable"),
    "more behind it": (lambda schema: schema + msgspec.msgpack.encode([[]]) * 2, "undecodable"),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_hostile_payload_is_a_miss(shop, name):
    """T22: counted by its reason; and the place can be filled again."""
    make, why = PAYLOADS[name]
    schema = shop.codec.encode([[]])[:8]
    shop.plant(shop.forge(make(schema)))

    sight = shop.look()

    assert sight.value is None
    assert shop.rejected() == {why}
    assert shop.fill([["red"]]) is not None
    assert shop.look().value.value == [["red"]]


def test_a_forged_value_in_order_is_found(shop):
    """The tests above fail for what they plant, not for the way in which they do."""
    shop.plant(shop.forge(shop.codec.encode([["red"]])))
    assert isinstance(shop.look().value, Success)
    assert shop.rejected() == set()


def test_values_swapped_between_keys_are_misses(shop):
    """T23: even without signatures, for a value knows its call."""
    shop.fill([["red"]], "red")
    shop.fill([["blue"]], "blue")
    red, blue = shop.client.get(shop.address("red")), shop.client.get(shop.address("blue"))
    shop.plant(blue, "red")
    shop.plant(red, "blue")

    assert shop.look("red").value is None
    assert shop.look("blue").value is None
    assert shop.rejected() == {"other_call"}


def test_a_hundred_megabytes_do_not_travel(own_redis):
    """The server is asked for no more than the largest value; it is one that sends to nobody else."""
    with shop_at(own_redis.url) as shop:
        shop.plant(shop.forge(bytes(100_000_000)))
        before = int(shop.client.info("stats")["total_net_output_bytes"])

        assert shop.look().value is None

        assert int(shop.client.info("stats")["total_net_output_bytes"]) - before < 3_000_000
        assert shop.rejected() == {"too_large"}


def test_a_value_cut_off_at_any_byte_is_a_miss(shop):
    """In the server's script, in the envelope, in the payload."""
    whole = shop.forge(shop.codec.encode([["red"]]))
    for end in range(len(whole)):
        shop.plant(whole[:end])
        assert shop.look().value is None, end
    assert shop.rejected() <= {"malformed", "schema", "undecodable"}


@given(data=st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: version() + rest))
def test_random_bytes_are_misses(data):
    """Wherever they stand, and whether they begin like ours or not."""
    shop = _standing_shop()
    shop.plant(data)
    assert shop.look().value is None


RANDOM = f"paintkit-attack-random-{os.getpid()}"


@functools.cache
def _standing_shop():
    url = services.place("redis")
    level = RedisLevel(url, prefix=RANDOM, timeout=5.0)
    return Shop(level, redis.Redis.from_url(url), Names(RANDOM, "shop"))


@pytest.fixture(scope="module", autouse=True)
def _close_the_standing_shop():
    yield
    if _standing_shop.cache_info().currsize:
        shop = _standing_shop()
        shop.level.close()
        for key in shop.client.scan_iter(f"{RANDOM}:*"):
            shop.client.delete(key)
        shop.client.close()


@pytest.mark.parametrize("kind", ["hash", "list", "set", "stream"])
def test_another_type_at_a_place_is_a_miss(shop, kind):
    """It gives way to the next value."""
    plant = {
        "hash": lambda at: shop.client.hset(at, "a", "b"),
        "list": lambda at: shop.client.rpush(at, "a"),
        "set": lambda at: shop.client.sadd(at, "a"),
        "stream": lambda at: shop.client.xadd(at, {"a": "b"}),
    }
    shop.client.delete(shop.address())
    plant[kind](shop.address())
    assert shop.look().value is None
    assert shop.rejected() == {"malformed"}
    assert shop.fill([["red"]]) is not None


@pytest.mark.parametrize("token", [b"", b"short", b"much longer than a token"])
def test_a_hostile_token_is_replaced(shop, token):
    """What was filled under it is invalid, and what is filled next is valid."""
    shop.fill([["red"]])
    shop.client.set(shop.names.token("all"), token)
    assert shop.look().value is None
    assert shop.fill([["red"]]) is not None
    assert isinstance(shop.look().value, Success)


def test_the_time_that_a_value_is_said_to_have_is_bounded(shop):
    """Nobody makes us keep a value for ever."""
    shop.fill([["red"]])
    shop.client.pexpire(shop.address(), 10**12)
    assert shop.look().left <= 7 * 86_400
    shop.client.persist(shop.address())
    assert shop.look().value is None


@pytest.mark.parametrize(
    "words",
    [
        {"x": "y"},
        {"n": "0", "s": "me", "c": "[]"},
        {"n": "9" * 50, "s": "me", "c": "nothing"},
        {"n": "1", "s": "me", "c": "[" * 100_000},
        {"n": "1", "s": "me", "c": '[["m"]]'},
        {"n": "1", "s": "me", "c": '[["x","all"]]'},
    ],
    ids=range(6),
)
def test_a_forged_message_is_a_gap(shop, words):
    """Copies are verified, and the link goes on."""
    ears = Counting()
    member = shop.level.join("listener", ears)
    drive(member.blocking.look(shop.place(), shop.codec))
    until(lambda: member.trust.until > 0)
    gaps = ears.gaps

    names = Names(shop.names.stream.decode().partition(":")[0], "listener")
    shop.client.xadd(names.stream, words)

    until(lambda: ears.gaps > gaps)
    until(lambda: member.trust.until > 0)
    assert ears.heard == []


class Counting(Silent):
    def __init__(self):
        self.heard, self.gaps = [], 0

    def changed(self, mark):
        self.heard.append(mark)

    changed_at = changed

    def gap(self):
        self.gaps += 1


def test_pickle_needs_a_signature():
    """The bomb goes off only for those who have our key."""
    with pytest.raises(ValueError, match="signing_keys"):
        RedisLevel("redis://localhost", serializer="pickle")

    url, prefix = services.place("redis"), f"paintkit-attack-pickle-{os.getpid()}"
    level = RedisLevel(url, prefix=prefix, serializer="pickle", signing_keys=[KEY], timeout=5.0)
    with redis.Redis.from_url(url) as client:
        shop = Shop(level, client, Names(prefix, "shop"))
        schema = shop.codec.encode([])[:8]
        for data in (
            shop.forge(schema + pickle.dumps(Boom())),
            Envelopes(max_bytes=2**20, compress_above=2**20, signing_keys=[UNKNOWN]).seal(
                shop.address(),
                front(call=call_digest(b"red"), tokens=b"".join(shop.look().tokens)),
                schema + pickle.dumps(Boom()),
            ),
        ):
            shop.plant(data)
            assert shop.look().value is None
        assert shop.rejected() == {"signature"}
        assert shop.fill([1 + 2j]) is not None
        assert shop.look().value.value == [1 + 2j]
        for key in client.scan_iter(f"{prefix}:*"):
            client.delete(key)
    level.close()


@pytest.mark.parametrize(
    ("keys", "error"),
    [("a string is no list of them", TypeError), ([3], TypeError), (["short"], ValueError), (7, TypeError)],
    ids=str,
)
def test_keys_that_are_none_are_refused(keys, error):
    """With the fix."""
    with pytest.raises(error, match="sign"):
        RedisLevel("redis://localhost", signing_keys=keys)


def test_a_vacancy_is_no_value():
    """Nor is anything else of ours that is not one."""
    assert (
        reason(vacancy() + struct.pack("<dddd16sB", 0, 0, 0, 0, call_digest(CANONICAL), 0) + b"\0")
        == "malformed"
    )


def test_a_large_value_is_not_stored(shop):
    """It stays where it is, and is counted."""
    assert shop.fill([["x" * 2_000_000]]) is None
    assert shop.level.stats()["not_stored_too_large"] == 1


def test_both_colours_take_no_harm(shop):
    """The asyncio port reads with the same eyes."""
    shop.plant(shop.forge(b"nonsense"))

    async def scenario():
        assert (await shop.member.asyncio.look(shop.place(), shop.codec)).value is None

    asyncio.run(scenario())
    assert shop.rejected() == {"schema"}
