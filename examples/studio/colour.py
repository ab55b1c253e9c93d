"""Colours as numbers: from hexadecimal to OKLCH and back, and how to sort and read them.

The matrices are Björn Ottosson's OKLab (https://bottosson.github.io/posts/oklab/).
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

__all__ = ["Oklch", "hue_rank", "is_hex", "normal_hex", "oklch", "oklch_hex"]

_HEX = re.compile(r"#?([0-9A-Fa-f]{6})", re.ASCII)
_GREY = 0.03  # chroma below which an eye sees no hue
_GREYS_RANK = 360


class Oklch(NamedTuple):
    """Lightness 0–1, chroma 0–0.4, hue 0–360 degrees."""

    lightness: float
    chroma: float
    hue: float


def is_hex(text: str) -> bool:
    """Whether the text is a colour of six hexadecimal digits, with or without `#`."""
    return _HEX.fullmatch(text) is not None


def normal_hex(text: str) -> str:
    """Return `#RRGGBB` in capitals.

    Raises:
        ValueError: The text is no such colour.

    Example:
        >>> normal_hex("c0ffee")
        '#C0FFEE'
    """
    if not (found := _HEX.fullmatch(text)):
        raise ValueError(f"{text!r} is no colour: write # and six hexadecimal digits, such as #3B4039")
    return f"#{found[1].upper()}"


def _linear(channel: int) -> float:
    value = channel / 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _channel(linear: float) -> int:
    value = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return round(255 * min(1.0, max(0.0, value)))


def oklch(colour: str) -> Oklch:
    """Return where `#RRGGBB` lies for the eye."""
    r, g, b = (_linear(int(colour[at : at + 2], 16)) for at in (1, 3, 5))
    long = math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b)
    m = math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b)
    s = math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b)
    lightness = 0.2104542553 * long + 0.7936177850 * m - 0.0040720468 * s
    a = 1.9779984951 * long - 2.4285922050 * m + 0.4505937099 * s
    b = 0.0259040371 * long + 0.7827717662 * m - 0.8086757660 * s
    return Oklch(lightness, math.hypot(a, b), math.degrees(math.atan2(b, a)) % 360)


def oklch_hex(lightness: float, chroma: float, hue: float) -> str:
    """Return the nearest `#RRGGBB`; what a screen cannot show is clipped."""
    a = chroma * math.cos(math.radians(hue))
    b = chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    channels = (
        4.0767416621 * long - 3.3077115913 * m + 0.2309699292 * s,
        -1.2684380046 * long + 2.6097574011 * m - 0.3413193965 * s,
        -0.0041960863 * long - 0.7034186147 * m + 1.7076147010 * s,
    )
    return "#" + "".join(f"{_channel(channel):02X}" for channel in channels)


def hue_rank(colour: str) -> int:
    """Return the place of a colour on the rainbow, 0–359; greys follow from dark to light, 360–460.

    Example:
        >>> hue_rank("#FF0000") < hue_rank("#00FF00") < hue_rank("#0000FF") < hue_rank("#808080")
        True
    """
    lightness, chroma, hue = oklch(colour)
    return _GREYS_RANK + round(100 * lightness) if chroma < _GREY else int(hue) % _GREYS_RANK
