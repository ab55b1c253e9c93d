"""Laws of lists and cursors."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.catalogue.listing import Cursor, Listing

NUMBERS = st.integers(0, 2**31 - 1)


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=360), NUMBERS, st.booleans()
)
def test_a_cursor_by_name_survives_its_text(key, paint_id, backwards):
    """A place in the order by name can be put into an address and read again."""
    cursor = Cursor(key, paint_id, backwards)
    assert cursor == Cursor.decode(cursor.encode("name"), "name")


@given(NUMBERS, NUMBERS, st.booleans(), st.sampled_from(["stock", "hue", "newest"]))
def test_a_cursor_by_number_survives_its_text(key, paint_id, backwards, sort):
    """The same for orders by number."""
    cursor = Cursor(key, paint_id, backwards)
    assert cursor == Cursor.decode(cursor.encode(sort), sort)


@given(st.text() | st.binary().map(lambda data: data.hex()))
def test_a_damaged_cursor_is_refused(text):
    """Whatever a visitor writes into the address is a place or a ValueError, never another error."""
    with contextlib.suppress(ValueError):
        Listing.from_query({"cursor": text})


@pytest.mark.parametrize("sort", ["stock", "newest"])
def test_a_cursor_belongs_to_its_order(sort):
    """A cursor of another order is refused."""
    with pytest.raises(ValueError, match="does not fit this order"):
        Cursor.decode(Cursor("moss", 1).encode("name"), sort)


@pytest.mark.parametrize(
    "args",
    [
        {"limit": "0"},
        {"limit": "201"},
        {"limit": "x"},
        {"limit": "١"},
        {"sort": "price"},
        {"stock": "some"},
        {"q": "x" * 101},
        {"q": "a\x00b"},
    ],
)
def test_a_senseless_address_is_refused(args):
    """Every part of the address is checked."""
    with pytest.raises(ValueError):
        Listing.from_query(args)


def test_a_new_filter_starts_on_the_first_page():
    """Any change but that of the cursor drops the cursor; defaults stay out of the address."""
    listing = Listing(q="moss", cursor="abc", limit=96)
    assert {"q": "moss", "cursor": "def", "limit": "96"} == listing.as_query(cursor="def")
    assert {"q": "moss", "stock": "low", "limit": "96"} == listing.as_query(stock="low")
