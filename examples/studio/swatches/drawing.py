"""Draws a blot of paint: its colour, its finish, a little light from the upper left."""

from __future__ import annotations

import io
import math
import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from studio.colour import oklch, oklch_hex

__all__ = ["SIZE", "VERSION", "draw", "flat"]

SIZE = (640, 480)

#: Changes when the drawing does, so that kept pictures of an older hand are not shown.
VERSION = 1

_SHINE = {"gloss": 150, "varnish": 170, "metallic": 130, "satin": 80, "ink": 70, "wash": 45, "contrast": 60}
_GRAIN = {"metallic": 46, "texture": 60, "primer": 18, "matte": 10}
_SHEER = {"wash": 150, "ink": 175, "contrast": 215, "varnish": 120}
_LOBES, _STEPS = 9, 240
_FINE = 3


def draw(colour: str, finish: str) -> bytes:
    """Return the picture as WebP, 640 by 480 pixels; always the same for the same paint."""
    rng = random.Random(f"{colour}/{finish}")  # noqa: S311 - a shape keeps no secret
    ground = _paper(colour)
    blot = _blot(rng)
    shadow = _soft(ImageChops.offset(blot, 6, 10), 12)
    ground.paste(_shade(colour, -0.22), mask=shadow.point(lambda level: level * 90 // 255))
    opacity = _SHEER.get(finish, 255)
    ground.paste(_pigment(rng, colour, finish), mask=blot.point(lambda level: level * opacity // 255))
    _light(ground, blot, _SHINE.get(finish, 28))
    return _webp(ground)


def flat(colour: str) -> bytes:
    """Return a plain picture of the colour: what is shown when pictures cannot be kept or read."""
    return _webp(Image.new("RGB", SIZE, colour))


def _paper(colour: str) -> Image.Image:
    """Return a warm white, or a dark card under a pale paint, so that the edge can be seen."""
    return Image.new("RGB", SIZE, "#2B2A28" if oklch(colour).lightness > 0.86 else "#F6F3EC")


def _shade(colour: str, by: float) -> str:
    lightness, chroma, hue = oklch(colour)
    return oklch_hex(min(1.0, max(0.0, lightness + by)), chroma, hue)


def _blot(rng: random.Random) -> Image.Image:
    """Return the mask of a blot: a wavy disc with a drop or two beside it, drawn large for a smooth edge."""
    width, height = (_FINE * side for side in SIZE)
    mask = Image.new("L", (width, height))
    pen = ImageDraw.Draw(mask)
    waves = [(rng.uniform(0.015, 0.085), k, rng.uniform(0, math.tau)) for k in range(2, _LOBES)]
    outline = []
    for step in range(_STEPS):
        angle = math.tau * step / _STEPS
        radius = 1 + sum(size / (k / 2) * math.sin(k * angle + phase) for size, k, phase in waves)
        x = width / 2 + 0.35 * width * radius * math.cos(angle)
        outline.append((x, height / 2 + 0.36 * height * radius * math.sin(angle)))
    pen.polygon(outline, fill=255)
    for _ in range(rng.randint(2, 4)):
        angle, size = rng.uniform(0, math.tau), _FINE * rng.uniform(7, 19)
        x = width / 2 + 0.45 * width * math.cos(angle)
        y = height / 2 + 0.44 * height * math.sin(angle)
        pen.ellipse((x - size, y - size, x + size, y + size), fill=255)
    return mask.reduce(_FINE)


def _pigment(rng: random.Random, colour: str, finish: str) -> Image.Image:
    """Return the paint itself: darker towards its edge, with the grain of its finish."""
    body = Image.new("RGB", SIZE, colour)
    pool = Image.radial_gradient("L").resize(SIZE).point(lambda level: max(0, level - 70) // 2)
    body.paste(_shade(colour, -0.10), mask=pool)
    if grain := _GRAIN.get(finish):
        seed = Image.frombytes("L", (SIZE[0] // 2, SIZE[1] // 2), rng.randbytes(SIZE[0] * SIZE[1] // 4))
        noise = seed.resize(SIZE, Image.Resampling.BILINEAR).point(
            lambda level: max(0, level - 128) * grain // 100
        )
        body.paste(_shade(colour, 0.16), mask=noise)
    return body


def _light(ground: Image.Image, blot: Image.Image, strength: int) -> None:
    """Add the light from the upper left, where there is paint."""
    width, height = SIZE
    glow = Image.new("L", SIZE)
    pen = ImageDraw.Draw(glow)
    pen.ellipse((0.27 * width, 0.2 * height, 0.55 * width, 0.42 * height), fill=strength)
    soft = _soft(glow, 26 if strength < 100 else 14)
    ground.paste("#FFFFFF", mask=ImageChops.multiply(soft, blot))


def _soft(mask: Image.Image, radius: int) -> Image.Image:
    """Blur on a quarter of the size: nobody sees the difference, and it takes a tenth of the time."""
    small = mask.reduce(4).filter(ImageFilter.GaussianBlur(radius / 4))
    return small.resize(SIZE, Image.Resampling.BILINEAR)


def _webp(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=80, method=2)
    return out.getvalue()
