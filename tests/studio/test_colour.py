"""Laws of colours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.colour import hue_rank, ink_on, is_hex, normal_hex, oklch, oklch_hex

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


@given(HEXES)
def test_ink_has_contrast(colour):
    """The ink chosen reads with a contrast of 4.5 to 1 at least, as WCAG asks."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    ratio = (luminance + 0.05) / 0.05 if ink_on(colour) == "black" else 1.05 / (luminance + 0.05)
    assert ratio > 4.5
