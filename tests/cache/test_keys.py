"""The laws of keys: what is exactly the same call has one key, and everything else has another."""

import dataclasses
import datetime as dt
import decimal
import enum
import gc
import math
import pathlib
import uuid
import zoneinfo
from collections import OrderedDict, deque, namedtuple
from fractions import Fraction
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import ClassVar

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit.cache import keys


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    ONE = 1


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Label(str):
    __slots__ = ()


class Loud(str):
    def __init__(self, _text: str) -> None:
        self.volume = 11


@dataclasses.dataclass(frozen=True)
class Point:
    x: object
    y: object = 0


@dataclasses.dataclass
class OtherPoint:
    x: object
    y: object = 0


@attrs.define
class AttrsPoint:
    x: object
    y: object = 0


class StructPoint(msgspec.Struct):
    x: object
    y: object = 0


class ModelPoint:
    """As pydantic makes its models."""

    __slots__ = ("__dict__", "__pydantic_extra__")
    __pydantic_fields__: ClassVar = {"x": None, "y": None}

    def __init__(self, x, y=0, **extra):
        self.__dict__ = {"x": x, "y": y}
        self.__pydantic_extra__ = extra

    def __eq__(self, other):
        raise AssertionError("nobody may compare it")

    __hash__ = None


@dataclasses.dataclass
class ModelDataclassPoint:
    """As pydantic makes its dataclasses."""

    __pydantic_fields__: ClassVar = {"x": None, "y": None}
    x: object
    y: object = 0


class Keyed:
    __slots__ = ("number",)

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        raise AssertionError("nobody may compare it")

    __hash__ = None

    def __cache_key__(self):
        return [self.number]


class Liar:
    """Equal to everything, with one hash for all."""

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1


class Slotted:
    __slots__ = ()


def single(value):
    return keys.single_key(value, [])


def frozen(value):
    return keys.freeze(value, [])


Pair = namedtuple("Pair", "a b")
OtherPair = namedtuple("OtherPair", "a b")
UTC = dt.UTC

#: Classes whose values are told apart by their fields.
OF_FIELDS = [Point, OtherPoint, AttrsPoint, StructPoint, ModelPoint, ModelDataclassPoint]

# Every two of these differ.
DISTINCT = [
    1, True, 1.0, "1", b"1", bytearray(b"1"), decimal.Decimal(1), decimal.Decimal("1.0"), Fraction(1), 1 + 0j, Level.ONE,
    Colour.RED, Access.READ, Access.READ | Access.WRITE,
    0, False, 0.0, -0.0, "0", complex(0.0, -0.0), complex(0.0, 0.0), complex(-0.0, 0.0), -1, -2, math.inf, math.nan,
    complex(math.nan, 0), decimal.Decimal("nan"), None, "", b"", "None", "True", "nan", ..., NotImplemented,
    (), [], {}, set(), frozenset(), deque(), OrderedDict(), range(0), range(0, 0, 2), slice(0), slice(0, None),
    (1,), [1], (True,), [True], {1}, frozenset({1}), {1: 1}, {1: True}, {True: 1}, ((1,),), ([1],), [[1]], (1, 2), (2, 1),
    OrderedDict(a=1, b=2), OrderedDict(b=2, a=1), {"a": 1, "b": 2}, MappingProxyType({"a": 1, "b": 2}),
    ("a b", "c"), ("a", "b c"), "a b c", Label("a b c"),
    *[made for kind in OF_FIELDS for made in (kind(1), kind(True), kind(0, 1), kind([1]), kind(ModelPoint(1)))],
    ModelPoint(1, z=1), ModelPoint(1, z=True), Pair(1, 0), OtherPair(1, 0), (1, 0),
    Keyed(1), Keyed(True), Keyed(2),
    uuid.UUID(int=1), pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a"), "a",
    dt.date(2024, 1, 1), dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, tzinfo=UTC),
    dt.datetime(2024, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    dt.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
    dt.datetime(2024, 1, 1, fold=1), dt.time(1), dt.time(1, fold=1), dt.timedelta(1),
    int, bool, frozen, Point, lambda: None, lambda: None,
]  # fmt: skip


FORMS = {
    "single": single,
    "frozen": frozen,
    "first": lambda value: keys.typed_key((value, 1), []),
    "second": lambda value: keys.typed_key((1, value), []),
    "positional": lambda value: keys.loose_key((value,), {}, []),
    "named": lambda value: keys.loose_key((), {"name": value}, []),
}


def collisions(form):
    """Return how many of the distinct values share a key with an earlier one."""
    return len(DISTINCT) - len({form(value) for value in DISTINCT})


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_two_different_values_share_a_key(form):
    """Values that differ in type, sign, zone or order differ in their keys, in all forms that a key takes."""
    assert 0 == collisions(form)


@pytest.mark.parametrize(
    "mutant", [repr, str, lambda value: frozen(value)[1]], ids=["repr", "str", "untyped"]
)
def test_the_law_above_catches_lesser_keys(mutant):
    """Keys by `repr`, by `str` or without the type do not pass."""
    assert collisions(mutant) > 0


SAME = [
    (lambda: math.nan, lambda: float("nan")),
    (lambda: {"a": 1, "b": [2]}, lambda: {"b": [2], "a": 1}),
    (lambda: {1, 2, 3}, lambda: {3, 2, 1}),
    *[(partial(kind, [1]), partial(kind, [1])) for kind in OF_FIELDS],
    (lambda: ModelPoint(1, z=[1]), lambda: ModelPoint(1, z=[1])),
    (lambda: Keyed(1), lambda: Keyed(1)),
    (lambda: pathlib.PurePosixPath("a/b"), lambda: pathlib.PurePosixPath("a") / "b"),
    (lambda: Label("a"), lambda: Label("a")),
    (lambda: Pair([1], 2), lambda: Pair([1], 2)),
    (lambda: dt.datetime(2024, 1, 1, tzinfo=UTC), lambda: dt.datetime(2024, 1, 1, tzinfo=UTC)),
    (lambda: decimal.Decimal("1.10"), lambda: decimal.Decimal("1.10")),
    (lambda: 10**30, lambda: 10**30),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=[f"{number}" for number in range(len(SAME))])
def test_equal_values_share_a_key(one, other):
    """A key depends on the value, not on the object."""
    assert frozen(one()) == frozen(other())
    assert hash(frozen(one())) == hash(frozen(other()))


plain = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5) | st.decimals()
    | st.dates() | st.timedeltas() | st.uuids()
)  # fmt: skip
nested = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def shape(value):
    """Return a spelling of a plain nested value that is exact by construction; what keys are judged by."""
    if isinstance(value, float):
        return f"float {value.hex()}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(shape, value))})"
    if isinstance(value, dict):
        items = sorted(f"{shape(key)}: {shape(item)}" for key, item in value.items())
        return f"dict({', '.join(items)})"
    return f"{type(value).__name__} {value!r}"


@given(nested, nested)
def test_keys_are_equal_exactly_if_values_are(one, other):
    """For any two nested values, one key means one value and the reverse."""
    assert (shape(one) == shape(other)) == (frozen(one) == frozen(other))
    assert (shape(one) == shape(other)) == (single(one) == single(other))
    assert (shape(one) == shape(other)) == (keys.typed_key((one, 1), []) == keys.typed_key((other, 1), []))


def test_foreign_equality_takes_no_part():
    """An object that calls itself equal to everything is refused, not believed."""
    with pytest.raises(TypeError, match=r"Liar has no exact cache key: .*__cache_key__"):
        frozen(Liar())


def test_a_string_that_carries_more_than_text_is_refused():
    """A subclass of a plain type is known by its plain value only if it has no other."""
    with pytest.raises(TypeError, match="Loud has no exact cache key"):
        frozen(Loud("a"))


def test_a_container_within_itself_is_refused():
    """A cyclic argument has no key."""
    cyclic = []
    cyclic.append(cyclic)
    with pytest.raises(TypeError, match="contains itself"):
        frozen(cyclic)


def test_identity_is_known_without_keeping_the_object():
    """An object that compares by identity has one key as long as it lives, which keeps nothing alive."""
    thing = SimpleNamespace.__class__("Thing", (), {})()
    identities: list[keys.Identity] = []
    first = keys.freeze(thing, identities)
    assert first == keys.freeze(thing, [])
    assert 1 == len(identities)
    address = id(thing)
    assert address in keys._identities
    del thing
    assert address not in keys._identities


def test_an_address_used_again_is_another_object():
    """A new object at the address of a dead one has a key of its own."""

    class Thing:
        pass

    seen = []
    for _ in range(100):
        thing = Thing()
        seen.append(frozen(thing))
        del thing
    gc.collect()
    assert 100 == len(set(seen))


def test_what_cannot_be_known_weakly_is_refused():
    """An object without weak references names the ways out."""
    with pytest.raises(TypeError, match=r"Slotted .*__weakref__.*__cache_key__.*key_func"):
        frozen(Slotted())


def test_bound_methods_are_their_object_and_function():
    """`obj.method` is a new object each time, and one key."""

    class Thing:
        def act(self):
            pass

        def other(self):
            pass

    one, two = Thing(), Thing()
    assert frozen(one.act) == frozen(one.act)
    assert 4 == len({frozen(method) for method in (one.act, one.other, two.act, two.other)})
