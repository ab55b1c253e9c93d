"""What runs after the real COMMIT."""

import logging
from itertools import count

import pytest

from paintkit import ambient
from paintkit.sqlalchemy import on_commit
from paintkit.sqlalchemy.hooks import Ledger
from tests.sqlalchemy.house import House


class Boom(Exception):
    """What the code under test raises."""


def test_hooks_run_after_the_commit(house: House) -> None:
    """A hook sees its work stored and the connection given back; hooks run in the order of registration."""

    async def scenario() -> None:
        seen: list[object] = []
        async with house.unit():
            house.db.on_commit(lambda: seen.append(house.db.get_connection_stats()["checked_out"]))
            await house.add("a")
            house.db.on_commit(lambda: seen.append(ambient.unit_of_work.get()))
            async with house.unit():
                house.db.on_commit(lambda: seen.append("inner"))
            assert [] == seen
        assert [0, None, "inner"] == seen

    house.run(scenario)


def test_hooks_may_work(house: House) -> None:
    """Inside a hook a new unit of work can be opened, which finds the first one stored."""

    async def scenario() -> None:
        if house.db.is_async:

            async def hook() -> None:
                assert ["a"] == await house.stored()
                async with house.unit():
                    await house.add("hook")

        else:

            def hook() -> None:
                with house.db.unit_of_work():
                    house.db.session.add(type(paint)(name="hook"))

        async with house.unit():
            paint = await house.add("a")
            house.db.on_commit(hook)
        assert ["a", "hook"] == await house.stored()

    house.run(scenario)


def test_rollback_forgets_hooks(house: House) -> None:
    """A hook of work that was rolled back never runs."""

    async def scenario() -> None:
        seen: list[str] = []
        with pytest.raises(Boom):
            async with house.unit():
                house.db.on_commit(lambda: seen.append("never"))
                raise Boom
        assert [] == seen

    house.run(scenario)


def test_savepoints_carry_their_hooks(house: House) -> None:
    """A released savepoint's hooks wait for the root; those of a rolled back one are gone, with those nested in it."""

    async def scenario() -> None:
        seen: list[str] = []

        def note(text: str) -> None:
            house.db.on_commit(lambda: seen.append(text))

        async with house.unit():
            note("root")
            async with house.unit(propagation="nested"):
                note("released")
                async with house.unit(propagation="nested"):
                    note("twice released")
            assert [] == seen
            with pytest.raises(Boom):
                async with house.unit(propagation="nested"):
                    note("lost")
                    async with house.unit(propagation="nested"):
                        note("released into the lost")
                    raise Boom
            note("last")
        assert ["root", "released", "twice released", "last"] == seen

    house.run(scenario)


def test_savepoints_made_by_hand_count(house: House) -> None:
    """`session.begin_nested()` carries and drops hooks as a nested boundary does."""

    async def scenario() -> None:
        seen: list[str] = []
        async with house.unit() as session:
            kept, lost = session.begin_nested(), None
            await house.settle(kept.start() if house.db.is_async else None)
            house.db.on_commit(lambda: seen.append("kept"))
            await house.settle(kept.commit())
            lost = session.begin_nested()
            await house.settle(lost.start() if house.db.is_async else None)
            house.db.on_commit(lambda: seen.append("lost"))
            await house.settle(lost.rollback())
        assert ["kept"] == seen

    house.run(scenario)


def test_failing_hook_is_logged(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """A failing hook neither stops the others nor reaches the caller, whose work is stored."""

    async def scenario() -> None:
        seen: list[str] = []

        def fail() -> None:
            raise Boom

        async with house.unit():
            await house.add("a")
            house.db.on_commit(fail)
            house.db.on_commit(lambda: seen.append("still"))
        assert ["still"] == seen
        assert ["a"] == await house.stored()

    with caplog.at_level(logging.ERROR, "paintkit.sqlalchemy"):
        house.run(scenario)
    assert "Boom" in caplog.text


@pytest.mark.parametrize("url", ["sqlite-memory", "postgres"], indirect=True)
def test_blocking_unit_refuses_what_it_cannot_await(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """`async def` is refused by a blocking manager; what slips through is logged, and the others still run."""

    async def scenario() -> None:
        seen: list[str] = []

        async def hook() -> None:
            seen.append("never")

        def slip() -> object:
            return hook()

        with house.db.unit_of_work():
            with pytest.raises(TypeError, match="action"):
                house.db.on_commit(hook)
            house.db.on_commit(slip)
            house.db.on_commit(lambda: seen.append("still"))
        assert ["still"] == seen

    house.run(scenario)
    assert "nothing awaits" in caplog.text


def test_interrupt_in_a_hook_waits_for_the_others(house: House) -> None:
    """KeyboardInterrupt in a hook is raised, after every other hook has run: invalidations may be among them."""

    async def scenario() -> None:
        seen: list[str] = []

        def interrupt() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            async with house.unit():
                house.db.on_commit(interrupt)
                house.db.on_commit(lambda: seen.append("still"))
        assert ["still"] == seen

    house.run(scenario)


def test_without_a_unit_hooks_run_at_once(house: House) -> None:
    """Outside of a unit of work there is nothing to wait for, neither for the manager's nor for the free function."""

    async def scenario() -> None:
        seen: list[int] = []
        house.db.on_commit(lambda: seen.append(1))
        on_commit(lambda: seen.append(2))
        async with house.unit():
            on_commit(lambda: seen.append(3))
            assert [1, 2] == seen
        assert [1, 2, 3] == seen

    house.run(scenario)


def test_hooks_of_an_empty_unit_run(house: House) -> None:
    """A unit of work that ran no SQL still ends well, and so do its hooks run."""

    async def scenario() -> None:
        seen: list[int] = []
        async with house.unit():
            house.db.on_commit(lambda: seen.append(1))
        assert [1] == seen

    house.run(scenario)


@pytest.mark.parametrize("url", ["postgres", "postgres-async"], indirect=True)
def test_hooks_belong_to_their_own_unit(house: House) -> None:
    """The hooks of an independent inner unit run at its own commit, outside of the unit around it."""

    async def scenario() -> None:
        seen: list[object] = []
        with pytest.raises(Boom):
            async with house.unit():
                house.db.on_commit(lambda: seen.append("outer"))
                async with house.unit(propagation="requires_new"):
                    house.db.on_commit(lambda: seen.append(ambient.unit_of_work.get()))
                assert [None] == seen
                raise Boom
        assert [None] == seen

    house.run(scenario)


def test_ledger_moves_only_released_pages() -> None:
    """A page that closes unreleased takes its actions and its doom with it; a released one hands both on."""
    names = count()
    ledger = Ledger()
    ledger.open()
    ledger.doom(Boom())
    ledger.add(lambda: next(names))
    ledger.close()
    assert (None, []) == (ledger.cause, ledger.take())
    ledger.open()
    doom, action = Boom(), lambda: next(names)
    ledger.doom(doom)
    ledger.add(action)
    ledger.release()
    ledger.close()
    assert (doom, [action]) == (ledger.cause, ledger.take())
