"""Laws of the generated catalogue."""

from collections import Counter

import pytest

from studio.catalogue.generator import generate
from studio.catalogue.records import read_paint


@pytest.mark.parametrize("count", [0, 1, 60, 3000, 9908])
def test_as_many_as_asked_and_all_different(count):
    """No two paints share brand, range, code, name and colour."""
    assert count == len({paint.identity for paint in generate(count)})


def test_the_same_seed_gives_the_same_paints():
    """A catalogue can be made again anywhere; another seed makes another."""
    assert generate(60, seed=7) == generate(60, seed=7)
    assert generate(60, seed=7) != generate(60, seed=8)


def test_some_twins_differ_by_colour_alone():
    """As in real catalogues, the colour is what tells some paints apart."""
    names = Counter(paint.identity[:4] for paint in generate(9908))
    assert sum(count > 1 for count in names.values()) >= 2


def test_generated_paints_are_valid():
    """What is generated would be accepted from a form."""
    for paint in generate(500):
        cells = {name: str(value) for name, value in paint._asdict().items()}
        price = f"{paint.price_cents / 100:.2f}"
        assert (paint, {}) == read_paint(cells | {"price": price})


def test_a_senseless_size_is_refused():
    """There is an upper limit."""
    with pytest.raises(ValueError, match="count must be from 0 to 100000, not 100001"):
        generate(100_001)
