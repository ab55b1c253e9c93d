"""Laws of colours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.colour import hue_rank, is_hex, normal_hex, oklch, oklch_hex

HEXES = st.integers(0, 0xFFFFFF).map("#{:06X}".format)


@given(HEXES)
def test_oklch_and_back(colour):
    """A colour survives the way to OKLCH and back."""
    assert colour == oklch_hex(*oklch(colour))


@given(HEXES)
def test_every_colour_has_a_rank(colour):
    """Hues rank from 0 to 359, greys follow up to 460."""
    assert 0 <= hue_rank(colour) <= 460


@pytest.mark.parametrize("text", ["", "#12345", "#1234567", "#GGGGGG", "##12345", "#12345\n", "#١٢٣٤٥٦"])
def test_what_is_no_colour_is_refused(text):
    """Six ASCII hexadecimal digits make a colour, nothing else does."""
    assert not is_hex(text)
    with pytest.raises(ValueError, match="six hexadecimal digits"):
        normal_hex(text)
