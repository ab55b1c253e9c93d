"""Events and caches beside a unit of work: nobody hears of what is not stored, nobody keeps what is out of date."""

import pytest
from sqlalchemy import select

from paintkit import CacheManager, EventBus
from tests.sqlalchemy.house import House, Paint

blocking = pytest.mark.parametrize("url", ["sqlite-file", "postgres"], indirect=True)


class Boom(Exception):
    """What the code under test raises."""


@blocking
def test_events_follow_the_commit(house: House) -> None:
    """A handler runs after the commit, in the order of publication, and finds the row; a rollback publishes nothing."""
    bus, heard = EventBus(), []

    async def scenario() -> None:
        @bus.subscribe("paint.added")
        def handle(data: dict[str, str]) -> None:
            with house.db.unit_of_work(read_only=True) as session:
                heard.append((data["name"], list(session.scalars(select(Paint.name).order_by(Paint.name)))))

        with house.db.unit_of_work():
            for name in "ab":
                await house.add(name)
                bus.publish("paint.added", {"name": name})
            with pytest.raises(Boom), house.db.unit_of_work(propagation="nested"):
                await house.add("lost")
                bus.publish("paint.added", {"name": "lost"})
                raise Boom
            assert [] == heard
        with pytest.raises(Boom), house.db.unit_of_work():
            bus.publish("paint.added", {"name": "never"})
            raise Boom
        assert [("a", ["a", "b"]), ("b", ["a", "b"])] == heard

    house.run(scenario)


@blocking
def test_invalidation_follows_the_commit(house: House) -> None:
    """A cached read stays as it is until the commit, is fresh inside the unit that wrote, and fresh for all after it."""
    cache = CacheManager()

    async def scenario() -> None:
        @cache.cache_result(timeout=300, tags=lambda name: (f"paint:{name}",))
        def stock(name: str) -> int:
            with house.db.unit_of_work(read_only=True) as session:
                return session.scalar(select(Paint.stock).where(Paint.name == name))

        with house.db.unit_of_work():
            await house.add("a")
        assert 0 == stock("a")
        with pytest.raises(Boom), house.db.unit_of_work() as session:
            session.scalars(select(Paint)).one().stock = 5
            cache.invalidate("paint:a")
            assert 5 == stock("a")
            raise Boom
        assert 0 == stock("a")
        with house.db.unit_of_work() as session:
            session.scalars(select(Paint)).one().stock = 7
            cache.invalidate("paint:a")
        assert 7 == stock("a")

    house.run(scenario)


def test_a_released_savepoint_tells_nobody(house: House) -> None:
    """What a savepoint released, and the unit around it rolled back: no hook, no event, no invalidation."""
    bus, cache, seen = EventBus(), CacheManager(), []
    bus.subscribe("paint.added", seen.append)

    @cache.cache_result(tags=("paints",))
    def load() -> int:
        seen.append("loaded")
        return 1

    async def scenario() -> None:
        load()
        with pytest.raises(Boom):
            async with house.unit():
                async with house.unit(propagation="nested"):
                    await house.add("a")
                    house.db.on_commit(lambda: seen.append("hook"))
                    bus.publish("paint.added", "a")
                    cache.invalidate("paints")
                raise Boom
        load()
        assert (["loaded"], []) == (seen, await house.stored())
        assert 0 == cache.get_stats()["invalidations"]

    house.run(scenario)
