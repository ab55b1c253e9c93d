"""What a page cache of the reference application got wrong: writes, `None`, missing things, herds of expiry, outages."""

from paintkit import CacheManager
from paintkit.testing import FakeClock
from tests.cache.units import unit_of_work


class NoSuchPaint(LookupError):
    pass


class Catalogue:
    """Paints by number, read through a cache of either colour."""

    def __init__(self, colour, **options):
        self.cache = CacheManager(timeout=300)
        self.paints = {1: "red", 2: None}
        self.reads = []
        self.away = False
        options = {"tags": lambda number: (f"paint:{number}",)} | options
        self.paint = self.cache.cache_result(**options)(colour.function(self._read))

    def _read(self, number):
        self.reads.append(number)
        if self.away:
            raise ConnectionError("the database is away")
        if number not in self.paints:
            raise NoSuchPaint(number)
        return self.paints[number]

    def answer(self, colour, number):
        """Return what a caller gets, an error by its type."""
        try:
            return colour.call(self.paint, number)
        except (NoSuchPaint, ConnectionError) as error:
            return type(error)


def test_a_write_is_seen_by_the_next_read(colour):
    """Invalidation on write: with the commit, not before, and never for a write that was rolled back."""
    catalogue = Catalogue(colour)
    assert "red" == catalogue.answer(colour, 1)
    with unit_of_work():
        catalogue.paints[1] = "blue"
        catalogue.cache.invalidate("paint:1")
    assert "blue" == catalogue.answer(colour, 1)


def test_none_is_a_value_like_any_other(colour):
    """A paint without a name is read once."""
    catalogue = Catalogue(colour)
    assert (None, None) == (catalogue.answer(colour, 2), catalogue.answer(colour, 2))
    assert [2] == catalogue.reads


def test_what_is_missing_is_asked_for_once_in_a_while(colour):
    """Negative answers have a time to live of their own, shorter than that of values; failures have none."""
    catalogue = Catalogue(colour, cache_errors=NoSuchPaint, error_timeout=5.0)
    with FakeClock() as clock:
        assert [NoSuchPaint] * 2 == [catalogue.answer(colour, 3) for _ in range(2)]
        assert [3] == catalogue.reads
        catalogue.paints[3] = "green"
        clock.advance(5.0)
        assert "green" == catalogue.answer(colour, 3)
        catalogue.away = True
        assert [ConnectionError] * 2 == [catalogue.answer(colour, 4) for _ in range(2)]
    assert [3, 3, 4, 4] == catalogue.reads


def test_what_came_together_does_not_expire_together(colour):
    """With jitter a thousand values that came at one instant leave at many, none after its time and none much before."""
    together, apart = (Catalogue(colour, jitter=jitter) for jitter in (0.0, 0.1))
    with FakeClock() as clock:
        for catalogue in (together, apart):
            catalogue.paints = dict.fromkeys(range(200), "red")
            for number in range(200):
                colour.call(catalogue.paint, number)
        clock.advance(269.999)
        assert (200, 200) == (len(together.cache._store.sweep()), len(apart.cache._store.sweep()))
        clock.advance(15.0)
        fresh = [colour.call(apart.paint.explain, number).fresh for number in range(200)]
        assert 20 < sum(fresh) < 180
        assert all(colour.call(together.paint.explain, number).fresh for number in range(200))
        clock.advance(15.001)
        assert not any(colour.call(apart.paint.explain, number).fresh for number in range(200))


def test_an_old_answer_is_better_than_an_outage(colour):
    """Stale on error: as long as the database is away, and one try in five seconds finds out when it is back."""
    catalogue = Catalogue(colour, stale_on_error=3_600)
    with FakeClock() as clock:
        assert "red" == catalogue.answer(colour, 1)
        catalogue.away = True
        clock.advance(300.0)
        assert ["red"] * 3 == [catalogue.answer(colour, 1) for _ in range(3)]
        assert 2 == len(catalogue.reads)
        catalogue.away = False
        catalogue.paints[1] = "blue"
        clock.advance(5.0)
        assert "blue" == catalogue.answer(colour, 1)
