"""A second level: what one process loads the others find, and what one drops is gone for all."""

import pytest

from paintkit import CacheManager
from paintkit.testing import FakeClock, FakeLevel, FakeServer


@pytest.fixture
def clock():
    """Virtual time."""
    with FakeClock() as clock:
        yield clock


class Process:
    """One of several processes that run the same program."""

    def __init__(self, server, colour, **options):
        self.level = FakeLevel(server)
        self.cache = CacheManager("shop", level2=self.level, **options)
        self.colour = colour

    def define(self, table, **options):
        """Define the function that all processes have; it reads a table that they share."""
        options.setdefault("tags", lambda sku: (f"sku:{sku}", "prices"))
        self.loads = []

        def price(sku):
            self.loads.append(sku)
            answer = table[sku]
            if isinstance(answer, Exception):
                raise answer
            return answer

        self.price = self.cache.cache_result(**options)(self.colour.function(price))
        return self

    def __call__(self, sku="red"):
        return self.colour.call(self.price, sku)

    def drop(self, sku="red"):
        self.colour.call(self.price.invalidate, sku)

    @property
    def stats(self):
        return self.cache.get_stats()


@pytest.fixture
def server():
    """What the processes share."""
    return FakeServer()


@pytest.fixture
def table():
    """The data behind the cache."""
    return {"red": 1, "blue": 2}


@pytest.fixture
def here(clock, server, colour, table):
    """The process under test."""
    return Process(server, colour).define(table)


@pytest.fixture
def there(clock, server, colour, table):
    """Another one."""
    return Process(server, colour).define(table)


def test_a_value_is_loaded_once_for_all(here, there):
    """What one process loaded the other finds in the second level, and from then on in its own memory."""
    assert [1, 1, 1, 1] == [here(), there(), there(), here()]
    assert ["red"] == here.loads + there.loads
    assert 1 == there.stats["level2_hits"]
    assert 1 == there.stats["hits"]
    assert 0 == there.stats["loads"]
    assert 1 == there.level.counts["looked"]
