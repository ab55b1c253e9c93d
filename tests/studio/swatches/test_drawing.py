"""Laws of drawn swatches."""

import io

import pytest
from PIL import Image

from studio.catalogue.records import FINISHES
from studio.swatches.drawing import SIZE, draw, flat


@pytest.mark.parametrize("finish", FINISHES)
def test_every_finish_can_be_drawn(finish):
    """The picture is a small WebP of 640 by 480, the same each time, and its middle is about the colour."""
    data = draw("#2F5D50", finish)
    picture = Image.open(io.BytesIO(data), formats=["WEBP"]).convert("RGB")
    assert (SIZE, True) == (picture.size, len(data) < 12_000)
    assert data == draw("#2F5D50", finish)
    red, green, blue = picture.getpixel((320, 260))
    assert green > red
    assert green > blue - 8


def test_the_stand_in_is_the_plain_colour():
    """When pictures are away, the colour itself is shown."""
    picture = Image.open(io.BytesIO(flat("#C04020"))).convert("RGB")
    assert all(abs(a - b) < 6 for a, b in zip((0xC0, 0x40, 0x20), picture.getpixel((5, 5)), strict=True))
