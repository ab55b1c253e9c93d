"""Places: the exact form of a call in bytes, alike in every process."""

import datetime as dt
import decimal
import enum
import ipaddress
import math
import subprocess
import sys
import uuid
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit.cache import places
from paintkit.cache.keys import freeze
from paintkit.cache.places import canonical


class Finish(enum.Enum):
    """A member goes by its name."""

    MATT = 1
    GLOSS = 2


@dataclass
class Paint:
    """Goes by its fields."""

    name: str
    price: float


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.complex_numbers()
    | st.text(st.characters())
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.ip_addresses()
    | st.sampled_from(Finish)
    | st.builds(Paint, st.text(max_size=3), st.floats(0, 9))
    | st.just(...)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.frozensets(st.integers() | st.text(max_size=3), max_size=4)
    ),
    max_leaves=8,
)


def bytes_of(value):
    """Return the bytes of one argument."""
    return canonical(freeze(value, []))


@given(VALUES, VALUES)
def test_two_calls_have_one_form_if_they_are_one_call(one, other):
    """T11, T12: the bytes are equal exactly where the keys in memory are."""
    assert (bytes_of(one) == bytes_of(other)) == (freeze(one, []) == freeze(other, []))


ALIKE = [
    1,
    True,
    1.0,
    "1",
    b"1",
    (1,),
    [1],
    {1},
    frozenset({1}),
    {1: 1},
    "a",
    ("a", "b"),
    ("ab",),
    ("a", ("b",)),
]
ALIKE += [0.0, -0.0, math.nan, math.inf, None, "", b"", (), [], "None", -1, -2, 2**64, -(2**64)]
ALIKE += [
    decimal.Decimal(1),
    decimal.Decimal("1.0"),
    Finish.MATT,
    Finish.GLOSS,
    Paint("a", 1.0),
    uuid.UUID(int=1),
]
ALIKE += [dt.date(2024, 1, 1), dt.datetime(2024, 1, 1), dt.timedelta(1), dt.time(1)]
ALIKE += [ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("10.0.0.0/8"), ..., NotImplemented]


def test_what_looks_alike_is_told_apart():
    """T11, T12: no two of these share their bytes, alone or beside another."""
    forms = [bytes_of(value) for value in ALIKE]
    assert len(forms) == len(set(forms))
    pairs = [bytes_of((one, other)) for one in ALIKE for other in ALIKE]
    assert len(pairs) == len(set(pairs))


def test_the_tables_catch_bytes_without_lengths(monkeypatch):
    """Without the lengths of the parts two calls would share their bytes."""

    def careless(part):
        encoder = places._ENCODERS.get(type(part))
        return places._other(part) if encoder is None else b"%s%s" % encoder(part)

    assert canonical(("a", "b")) != canonical(("asb",))
    monkeypatch.setattr(places, "canonical", careless)
    assert careless(("a", "b")) == careless(("asb",))


def test_sets_and_hashes_make_no_difference():
    """In another process strings hash otherwise, and sets and dictionaries iterate otherwise."""
    program = (
        "from paintkit.cache.places import canonical, digest; from paintkit.cache.keys import freeze\n"
        "value = ({'a', 'b', 'c', 'd', 1, 2.0}, {'x': {'y', 'z'}, 'b': frozenset('hello')}, 2**200)\n"
        "print(digest(canonical(freeze(value, []))))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert 1 == len(runs)


class Plain:
    """Known by its identity."""


def local():
    """Return an instance of a class that no other process knows."""

    class Local:
        def __cache_key__(self):
            return 1

    return Local()


@pytest.mark.parametrize(
    "value",
    [Plain(), [Plain()], local(), Paint, lambda: 1],
    ids=["object", "in a list", "local class", "class", "function"],
)
def test_what_another_process_cannot_tell_is_refused(value):
    """T14: an identity, a class made inside a function: the error names the ways out."""
    with pytest.raises(TypeError, match="level2=False"):
        bytes_of(value)
