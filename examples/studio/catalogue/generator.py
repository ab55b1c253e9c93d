"""A fictional catalogue of any size, always the same for the same seed.

It behaves like a real one: brands with ranges, families of colour spread evenly for the eye, paints without a code, and
twins that differ by their colour alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from studio.catalogue import words
from studio.catalogue.records import PaintFields
from studio.colour import oklch_hex

__all__ = ["generate"]

_LARGEST = 100_000
_TWIN_EVERY = 2000
_PRICES = (275, 295, 320, 340, 375, 420)


def generate(count: int, *, seed: int = 1, stocked: bool = True) -> list[PaintFields]:
    """Return that many different paints.

    Args:
        count: How many, 0 to 100,000.
        seed: The same seed gives the same paints.
        stocked: Whether some of them are on the shelf.

    Raises:
        ValueError: `count` is out of range.

    Example:
        >>> len({paint.identity for paint in generate(60)})
        60
    """
    if not 0 <= count <= _LARGEST:
        raise ValueError(f"count must be from 0 to {_LARGEST}, not {count}")
    rng = random.Random(seed)  # noqa: S311 - a catalogue keeps no secret
    paints: list[PaintFields] = []
    seen: set[tuple[str, ...]] = set()
    for paint in islice(_paints(rng), count * 4 + 100):
        if len(paints) == count:
            break
        if paints and len(paints) % _TWIN_EVERY == _TWIN_EVERY - 1:
            paint = _twin(paints[-1], paint.hex)  # noqa: PLW2901 - the twin takes the place of what was drawn
        if paint.identity not in seen:
            seen.add(paint.identity)
            paints.append(_shelved(rng, paint) if stocked else paint)
    return paints


def _paints(rng: random.Random) -> Iterator[PaintFields]:
    serials = dict.fromkeys(words.BRANDS, 0)
    while True:
        brand = rng.choice(words.BRANDS)
        range_, finishes = rng.choice(tuple(words.RANGES.items()))
        family = rng.choice(tuple(words.FAMILIES))
        serials[brand] += 1
        initials = "".join(part[0] for part in brand.split() if part[0].isalpha())
        yield PaintFields(
            brand=brand,
            range=range_,
            code="" if rng.random() < 0.15 else f"{initials}{serials[brand]:04d}",
            name=f"{rng.choice(words.MOODS)} {rng.choice(words.FAMILY_NOUNS[family])}",
            hex=_colour(rng, family),
            finish=rng.choice(finishes),
            price_cents=rng.choice(_PRICES),
        )


def _colour(rng: random.Random, family: str) -> str:
    hue, share = words.FAMILIES[family]
    lightness = rng.uniform(0.25, 0.92)
    room = 1 - abs(2 * lightness - 1.15)  # little chroma fits near black and white
    return oklch_hex(
        lightness, 0.19 * share * max(0.15, room) * rng.uniform(0.5, 1), hue + rng.uniform(-14, 14)
    )


def _shelved(rng: random.Random, paint: PaintFields) -> PaintFields:
    if rng.random() < 0.45:
        return paint
    return paint._replace(stock=rng.choice((1, 1, 2, 2, 3, 4, 6)), min_stock=rng.choice((0, 1, 1, 2)))


def _twin(paint: PaintFields, colour: str) -> PaintFields:
    return paint._replace(hex=colour)
