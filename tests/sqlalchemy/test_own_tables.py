"""Tables of paintkit's own that nobody has made: the error says how, on every kind of database."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from paintkit import EventBus
from paintkit.sqlalchemy import IdempotencyKeys, Outbox
from tests.sqlalchemy.house import House


def notes(error: pytest.ExceptionInfo[DBAPIError]) -> list[str]:
    return getattr(error.value, "__notes__", [])


def test_an_outbox_without_tables_says_how_they_are_made(house: House) -> None:
    """Whether something is published or looked at."""
    outbox = Outbox(house.db, prefix="unmade_")
    bus = EventBus(transport=outbox)

    async def scenario() -> None:
        with pytest.raises(DBAPIError) as published:
            await house.settle((bus.apublish if house.db.is_async else bus.publish)("paint.sold", 1))
        with pytest.raises(DBAPIError) as looked:
            await house.settle(outbox.astatus() if house.db.is_async else outbox.status())
        for error in (published, looked):
            assert [True] == ["outbox.create_tables()" in note for note in notes(error)]

    house.run(scenario)


def test_keys_without_a_table_say_how_it_is_made(house: House) -> None:
    """At the first call."""
    keys = IdempotencyKeys(house.db, table="unmade_keys")

    async def scenario() -> None:
        call = keys.acall if house.db.is_async else keys.call
        with pytest.raises(DBAPIError) as error:
            await house.settle(call("token", house.function(pay)))
        assert [True] == ["keys.table.create(" in note for note in notes(error)]

    async def pay() -> int:
        return 1

    house.run(scenario)


def test_the_tables_of_others_are_their_own_matter(house: House) -> None:
    """Nothing is said of them."""

    async def scenario() -> None:
        with pytest.raises(DBAPIError) as error:
            async with house.unit() as session:
                await house.settle(session.execute(text("SELECT 1 FROM unmade")))
        assert [] == notes(error)

    house.run(scenario)
