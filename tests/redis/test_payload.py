"""Values come back from their bytes as they were, or are not stored."""

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import itertools
import uuid
from typing import Annotated, Any, NamedTuple, TypedDict

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit.redis.envelope import Rejected
from paintkit.redis.likeness import is_same
from paintkit.redis.payload import pickled, typed


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Grade(enum.IntEnum):
    STUDENT = 1
    ARTIST = 2


@dataclasses.dataclass(frozen=True)
class Paint:
    name: str
    price: decimal.Decimal
    colour: Colour | None = None


class Shelf(msgspec.Struct):
    paints: list[Paint]
    below: "Shelf | None" = None


@attrs.define
class Brush:
    width: float
    grade: Grade


class Label(TypedDict, total=False):
    text: str
    size: int


class Point(NamedTuple):
    x: int
    y: int


ints = st.integers(-(2**63), 2**63 - 1)
texts = st.text(max_size=8)
paints = st.builds(Paint, texts, st.decimals(allow_nan=False), st.none() | st.sampled_from(Colour))
zones = st.integers(-720, 720).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))
moments = st.datetimes(timezones=st.none() | st.just(dt.UTC) | zones)

VALUES = {
    int: ints,
    int | None: st.none() | ints,
    None: st.none(),
    bool: st.booleans(),
    float: st.floats(),
    str: texts,
    bytes: st.binary(),
    decimal.Decimal: st.decimals(allow_nan=False),
    uuid.UUID: st.uuids(),
    dt.date: st.dates(),
    dt.datetime: moments,
    dt.timedelta: st.integers(-(10**9), 10**9).map(lambda s: dt.timedelta(milliseconds=s)),
    Colour: st.sampled_from(Colour),
    Paint: paints,
    Shelf: st.recursive(
        st.builds(Shelf, st.lists(paints, max_size=3)),
        lambda below: st.builds(Shelf, st.lists(paints, max_size=2), below),
        max_leaves=4,
    ),
    Brush: st.builds(Brush, st.floats(allow_nan=False), st.sampled_from(Grade)),
    Label: st.fixed_dictionaries({}, optional={"text": texts, "size": ints}),
    Point: st.builds(Point, ints, ints),
    tuple[int, str]: st.tuples(ints, texts),
    tuple[int, ...]: st.lists(ints).map(tuple),
    set[str]: st.sets(texts),
    frozenset[int]: st.frozensets(ints),
    dict[str, list[Paint]]: st.dictionaries(texts, st.lists(paints, max_size=3), max_size=3),
    dict[int, tuple[Colour, ...]]: st.dictionaries(ints, st.lists(st.sampled_from(Colour)).map(tuple)),
    dict[str, Any]: st.dictionaries(texts, st.none() | ints | texts | st.lists(texts), max_size=5),
    list[Paint | None]: st.lists(st.none() | paints, max_size=4),
    Annotated[list[dt.datetime], "of moments"]: st.lists(moments, max_size=3),
}


def returning(annotation):
    """Make a function that promises that."""

    def fn():
        raise NotImplementedError

    fn.__annotations__["return"] = annotation
    return fn


@functools.cache
def codec_of(annotation, make=typed):
    """Return its codec."""
    return make(returning(annotation))


@pytest.mark.parametrize("annotation", VALUES, ids=str)
@given(data=st.data())
def test_a_value_comes_back_as_it_was(annotation, data):
    """Equal, and of the same types all the way down."""
    value = data.draw(VALUES[annotation])
    codec = codec_of(annotation)
    assert is_same(codec.decode(codec.encode(value)), value)


@given(st.dictionaries(st.tuples(texts, ints), st.complex_numbers(allow_nan=False) | moments))
def test_pickle_takes_what_has_no_other_form(value):
    """It needs no annotation."""
    codec = codec_of(None, pickled)
    assert codec.decode(codec.encode(value)) == value


class Markup(str):
    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class Metallic(Paint):
    shine: int = 3


class Opaque:
    pass


RED = Paint("red", decimal.Decimal(1))
EAST = dt.timezone(dt.timedelta(hours=2))
DEEP = functools.reduce(lambda inner, _: [inner], range(100_000), [])


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (str, Markup("<b>")),
        (str, 7),
        (int, True),
        (int, 2**64),
        (Paint, Metallic("gold", decimal.Decimal(9))),
        (Paint, Paint("red", 1.5)),
        (dict[str, Any], {"a": (1, 2)}),
        (dict[str, Any], {"a": RED}),
        (dict[str, Any], {"a": dt.datetime(2026, 1, 1, tzinfo=EAST)}),
        (list[Any], DEEP),
        (list[int], (1, 2)),
        (dict[str, Any], {"a": Opaque()}),
    ],
    ids=itertools.count(),
)
def test_what_would_come_back_different_is_not_stored(annotation, value):
    """Not as something that merely equals it, and not as an error for whoever finds it."""
    with pytest.raises(TypeError, match=r"cannot be stored|would not come back"):
        codec_of(annotation).encode(value)


def test_an_int_is_a_float_where_the_annotation_says_so():
    """As for type checkers."""
    assert codec_of(list[float]).decode(codec_of(list[float]).encode([1, 2.5])) == [1.0, 2.5]


class Older:
    """Two versions of one class."""

    def shelf(names, **defaults):
        return msgspec.defstruct(
            "Shelf", [(name, kind) for name, kind in names.items()], module="shop", **defaults
        )


def test_a_changed_class_is_a_miss_not_a_crash():
    """A field more, another type, another name, another member of an enum: the digest differs. The same again: it does not."""
    kinds = [
        Older.shelf({"a": int}),
        Older.shelf({"a": int, "b": int}),
        Older.shelf({"a": str}),
        Older.shelf({"b": int}),
        enum.Enum("Shelf", "a b", module="shop"),
        enum.Enum("Shelf", "a b c", module="shop"),
    ]
    payload = typed(returning(kinds[0])).encode(kinds[0](1))
    for kind in kinds[1:]:
        with pytest.raises(Rejected, match="schema"):
            typed(returning(kind)).decode(payload)
    again = Older.shelf({"a": int})
    assert typed(returning(again)).decode(payload) == again(1)


def test_what_an_annotation_notes_for_people_is_no_part_of_it():
    """Each process has objects of its own in there, and all of them have to read what one has written."""

    def noted():
        return returning(Annotated[int, msgspec.Meta(ge=0, title="a price", extra={"by": Opaque()})])

    assert typed(noted()).decode(typed(noted()).encode(3)) == 3


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        (Any, "anything at all"),
        (object, "allows object"),
        (Opaque, "allows Opaque"),
        (list[Opaque], "allows Opaque"),
        (Paint | Shelf, "does not tell how"),
        ("Nowhere", "cannot be read"),
    ],
    ids=str,
)
def test_an_annotation_that_does_not_tell_how_is_refused(annotation, why):
    """At decoration, and with the fix."""
    with pytest.raises(TypeError, match=why) as caught:
        typed(returning(annotation))
    assert "level2=False" in str(caught.value)


def test_a_function_without_a_return_annotation_is_refused():
    """There is nothing to go by."""
    with pytest.raises(TypeError, match="no return annotation"):
        typed(lambda: 1)


def _containers(inner):
    return st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)


@given(st.recursive(ints | texts | st.none() | st.floats(), _containers, max_leaves=8))
def test_a_value_is_the_same_as_itself(value):
    """NaN included."""
    assert is_same(value, value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        ([1], [True]),
        ({"a": 1.5}, {"a": decimal.Decimal("1.5")}),
        (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, 2, tzinfo=EAST)),
        ("a", Markup("a")),
        ({1}, {True}),
        (RED, dataclasses.replace(RED, name=Markup("red"))),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (1.0, 1),
    ],
    ids=str,
)
def test_equal_is_not_the_same(one, other):
    """Types count, and the order in which a dictionary is read."""
    assert one == other
    assert not is_same(one, other)
