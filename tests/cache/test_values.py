"""The laws of values: what is served twice can be served twice, and sizes are estimates that bear a look."""

import dataclasses
import sys

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from paintkit.cache import values
from tests.colours import Colour


class Base(orm.DeclarativeBase):
    pass


class Brand(Base):
    __tablename__ = "brand"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)


@dataclasses.dataclass
class View:
    brand: object


class Imperative:
    pass


orm.registry().map_imperatively(
    Imperative, sa.Table("imperative", sa.MetaData(), sa.Column("id", primary_key=True))
)

MAPPED = {
    "itself": lambda: Brand(id=1),
    "imperatively": Imperative,
    "in a list": lambda: [Brand(id=1)],
    "in a tuple in a dict": lambda: {"brands": (1, Brand(id=1))},
    "as a key": lambda: {Brand(id=1): 1},
    "in an object": lambda: View(Brand(id=1)),
    "in a set": lambda: {Brand(id=1)},
}


@pytest.mark.parametrize("make", MAPPED.values(), ids=MAPPED)
def test_mapped_objects_are_refused(cache, colour, make):
    """A result that holds a mapped object is an error that names the fix, each time, and nothing is kept."""
    load = cache.cache_result()(colour.function(lambda: make()))  # noqa: PLW0108 - without the signature of a class
    for _ in range(2):
        with pytest.raises(
            TypeError, match=r"cannot cache (Brand|Imperative), a mapped SQLAlchemy object.*plain data"
        ):
            colour.call(load)
    assert 0 == cache.get_stats()["entries"]


def test_rows_of_plain_columns_are_fine(cache):
    """Rows hold values; only entities within them are refused."""
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add(Brand(id=1))
        session.flush()
        load = cache.cache_result()(lambda: session.execute(sa.select(Brand.id)).all())
        assert [(1,)] == load() == load()
        with pytest.raises(TypeError, match="mapped"):
            cache.cache_result()(lambda: session.execute(sa.select(Brand)).all())()
    engine.dispose()


def test_what_can_be_read_once_is_refused(cache, colour):
    """Iterators and awaitables are gone after their first reader."""
    for make in (lambda: iter([1]), lambda: (x for x in [1])):
        load = cache.cache_result()(colour.function(make))
        with pytest.raises(TypeError, match="can be read only once: return a list or a tuple"):
            colour.call(load)


def test_a_coroutine_is_refused(cache):
    """A plain function that returns a coroutine is told to be an `async def`."""
    made = []

    def load():
        made.append(Colour.ASYNCIO.function(lambda: 1)())
        return made[-1]

    with pytest.raises(TypeError, match="awaited only once: decorate the `async def` itself"):
        cache.cache_result()(load)()
    made[0].close()


def test_looking_into_values_is_bounded():
    """A huge or cyclic value is looked at, not walked through."""
    cyclic = [list(range(10_000)) for _ in range(1_000)]
    cyclic.append(cyclic)
    values.refuse_unfit(cyclic)
    assert values.estimate_size(cyclic) > 0


@pytest.mark.parametrize("value", [1, "text" * 1_000, b"", None, 1.5, True])
def test_the_size_of_a_plain_value_is_its_own(value):
    """What has no parts weighs what Python says."""
    assert sys.getsizeof(value) == values.estimate_size(value)


def test_the_size_of_a_container_holds_its_parts():
    """Parts count; of a large container a sample speaks for the rest."""
    texts = [f"{number:0100}" for number in range(10_000)]
    exactly = sys.getsizeof(texts) + sum(map(sys.getsizeof, texts))
    assert exactly == pytest.approx(values.estimate_size(texts), rel=0.05)
    small = {"a": ("b", [1, 2])}
    assert values.estimate_size(small) > sys.getsizeof(small) + sys.getsizeof("b")
    assert values.estimate_size(View("x" * 1_000)) > 1_000
