"""Envelopes: what an event carries between processes, and what it cannot carry."""

import datetime as dt
import decimal
import enum
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import envelope
from paintkit.envelope import Envelope

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_arrives_as_it_was(data):
    """Whatever JSON can say comes back equal and of the same type, and as pure ASCII any column can hold it."""
    event = Envelope.of("paint.created", data)
    assert repr(data) == repr(event.data)
    assert event.payload.isascii()


class Brand(enum.Enum):
    CITADEL = "citadel"


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("data", "kind", "place"),
    [
        (dt.datetime(2026, 1, 1), TypeError, "data is datetime"),
        ({"price": decimal.Decimal(3)}, TypeError, r"data\['price'\]"),
        ({"paint": {"brands": ["x", Brand.CITADEL]}}, TypeError, r"data\['paint'\]\['brands'\]\[1\]"),
        ({1: "one"}, TypeError, "the key 1"),
        ([{"a": {True: 0}}], TypeError, r"data\[0\]\['a'\] has the key True"),
        (float("nan"), ValueError, "data is nan"),
        ([float("inf")], ValueError, r"data\[0\] is inf"),
        ({"a", "b"}, TypeError, "set"),
        (b"bytes", TypeError, "bytes"),
        (CIRCLE, ValueError, "contains itself"),
    ],
)
def test_what_json_has_no_word_for_is_refused_with_its_place(data, kind, place):
    """The message says where it is and of which type."""
    with pytest.raises(kind, match=place):
        Envelope.of("paint.created", data)


def test_nesting_without_end_is_refused():
    """Before the interpreter's own limit becomes the publisher's trouble."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested"):
        Envelope.of("paint.created", deep)


def test_a_tuple_becomes_a_list_and_nothing_else_changes():
    """It is the one liberty that JSON takes."""
    assert {"size": [1, [2, 3]]} == Envelope.of("paint.created", {"size": (1, (2, 3))}).data


def test_who_spoils_the_data_spoils_his_own():
    """It is decoded for everyone who asks."""
    event = Envelope.of("paint.created", {"tags": []})
    event.data["tags"].append("spoilt")
    assert {"tags": []} == event.data


def test_ids_are_uuids_of_their_time(monkeypatch):
    """Version 7: unique, and later ones sort behind earlier ones, for the index they live in."""
    import time

    now = 1_700_000_000_000
    ids = []
    for step in range(100):
        monkeypatch.setattr(time, "time_ns", lambda at=now + step: at * 1_000_000)
        ids.append(Envelope.of("paint.created", None).id)
    assert sorted(ids) == ids
    assert 100 == len(set(ids))
    parsed = [uuid.UUID(one) for one in ids]
    assert {(7, uuid.RFC_4122)} == {(one.version, one.variant) for one in parsed}
    assert now == parsed[0].int >> 80


@pytest.mark.parametrize("name", ["event_type", "ordering_key"])
@pytest.mark.parametrize("character", ["\0", "\ud800"])
def test_a_name_that_nothing_can_store_is_refused_at_once(name, character):
    """PostgreSQL would refuse the whole unit of work at its COMMIT, far from who published."""
    names = {"event_type": "paint.sold", name: f"paint{character}"}
    with pytest.raises(ValueError, match=name):
        Envelope.of(names.pop("event_type"), None, **names)


@pytest.mark.parametrize("name", ["event_type", "ordering_key"])
def test_names_have_an_end(name):
    """Any table can hold them."""
    arguments = {"event_type": "paint.created", "ordering_key": "paint:1"}
    Envelope.of(arguments["event_type"], None, ordering_key="x" * 200)
    with pytest.raises(ValueError, match=f"{name}.*200"):
        many = arguments | {name: "x" * 201}
        Envelope.of(many["event_type"], None, ordering_key=many["ordering_key"])


def test_an_event_is_of_its_time():
    """In UTC."""
    event = Envelope.of("paint.created", None)
    assert dt.UTC is event.occurred_at.tzinfo


def test_a_check_that_only_encodes_would_let_keys_change(monkeypatch):
    """The planted fault: without the look back, a number as a key arrives as a text."""
    monkeypatch.setattr(envelope, "_encoded", json.dumps)
    assert {1: "one"} != Envelope.of("paint.created", {1: "one"}).data
