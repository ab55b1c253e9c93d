"""Idempotency keys: whatever is repeated, and however many try at once, the work is done once and answered alike."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from sqlalchemy import func, inspect, select
from sqlalchemy.exc import DBAPIError

from paintkit import CommitOutcomeUnknownError, IdempotencyKeyReusedError, backoff, retry
from paintkit.sqlalchemy import DatabaseConnectionManager, IdempotencyKeys, is_transient
from tests.sqlalchemy.house import Base, House, Paint
from tests.sqlalchemy.proxy import Cut, Proxy
from tests.sqlalchemy.servers import PATIENCE, until


class Boom(Exception):
    """What the work under test raises."""


class Till:
    """Work that must not be done twice, and its keys, in the colour of a house."""

    def __init__(self, house: House, **options: Any) -> None:
        self.house = house
        self.keys = IdempotencyKeys(house.db, **options)
        self.done: list[str] = []

    async def open(self) -> None:
        async with self.house.unit() as session:
            await self.house.settle(
                session.run_sync(lambda one: self.keys.table.create(one.connection()))
                if self.house.db.is_async
                else self.keys.table.create(session.connection())
            )

    async def close(self) -> None:
        async with self.house.unit() as session:
            await self.house.settle(
                session.run_sync(lambda one: self.keys.table.drop(one.connection()))
                if self.house.db.is_async
                else self.keys.table.drop(session.connection())
            )

    def payment(self, **options: Any) -> Callable[..., Any]:
        """Return a decorated function that stores a row and answers."""

        @self.keys.idempotent(key=lambda token, amount: token, **options)
        @self.house.function
        async def pay(token: str, amount: int) -> dict[str, Any]:
            await self.house.add(f"{token} {len(self.done)}")
            self.done.append(token)
            if amount < 0:
                raise Boom
            return {"token": token, "amount": amount}

        return lambda *args: self.house.settle(pay(*args))


def run(house: House, body: Callable[[Till], Any], **options: Any) -> None:
    """Run a scenario with an open till."""
    till = Till(house, **options)

    async def scenario() -> None:
        await till.open()
        try:
            await body(till)
        finally:
            await till.close()

    house.run(scenario)


def test_a_second_call_gets_the_first_answer(house: House) -> None:
    """The work is done once, and both calls get its answer; another key is other work, and so is another function."""

    async def body(till: Till) -> None:
        pay, refund = till.payment(), till.payment(name="refund")
        first = await pay("a", 20)
        assert first == await pay("a", 20) == {"token": "a", "amount": 20}
        assert ["a"] == till.done
        assert 5 == (await pay("A", 5))["amount"], (
            "a collation that ignores case must not make one key of two"
        )
        assert 7 == (await refund("a", 7))["amount"]
        assert ["a", "A", "a"] == till.done
        assert 3 == len(await house.stored())

    run(house, body)


def test_failed_work_leaves_no_key(house: House) -> None:
    """Key and work are one transaction: what fails may be tried again under the same key."""

    async def body(till: Till) -> None:
        pay = till.payment()
        with pytest.raises(Boom):
            await pay("a", -1)
        assert [] == await house.stored()
        assert 20 == (await pay("a", 20))["amount"]
        assert 1 == len(await house.stored())

    run(house, body)


def test_the_key_joins_the_unit_around_it(house: House) -> None:
    """Inside an open unit of work the key is stored with everything, and forgotten with everything."""

    async def body(till: Till) -> None:
        pay = till.payment()
        with pytest.raises(Boom):
            async with house.unit():
                await pay("a", 20)
                raise Boom
        async with house.unit():
            await pay("a", 20)
            await pay("a", 20)
        assert ["a", "a"] == till.done
        assert 1 == len(await house.stored())

    run(house, body)


def test_another_fingerprint_is_refused(house: House) -> None:
    """A key that comes back with other work is a mistake of the caller's, and is told."""

    async def body(till: Till) -> None:
        pay = till.payment(fingerprint=lambda token, amount: str(amount))
        await pay("a", 20)
        await pay("a", 20)
        with pytest.raises(IdempotencyKeyReusedError, match="'a'"):
            await pay("a", 21)
        assert ["a"] == till.done

    run(house, body)


def test_keys_expire(house: House) -> None:
    """An expired key is as good as none, be it purged or not."""
    times = [1_700_000_000.5]

    async def body(till: Till) -> None:
        async def purge() -> int:
            return await till.keys.apurge() if house.db.is_async else till.keys.purge()

        pay = till.payment()
        await pay("a", 20)
        await pay("b", 20)
        times[0] += 59.9
        await pay("a", 20)
        assert 0 == await purge()
        times[0] += 0.2
        assert 30 == (await pay("a", 30))["amount"]
        assert 30 == (await pay("a", 40))["amount"]
        assert 1 == await purge()
        assert 50 == (await pay("b", 50))["amount"]
        assert ["a", "b", "a", "b"] == till.done

    run(house, body, expires=60, now=lambda: times[0])


def test_the_function_form(house: House) -> None:
    """`call` and `acall` take the key as it is, for any function of the manager's colour."""

    async def body(till: Till) -> None:
        @house.function
        async def add(name: str, *, stock: int) -> int:
            paint = await house.add(name)
            paint.stock = stock
            return stock

        once: Any = till.keys.acall if house.db.is_async else till.keys.call
        other: Any = till.keys.call if house.db.is_async else till.keys.acall
        assert 3 == await house.settle(once("add:1", add, "red", stock=3))
        assert 3 == await house.settle(once("add:1", add, "red", stock=4))
        assert ["red"] == await house.stored()
        with pytest.raises(TypeError, match="this manager is"):
            await house.settle(other("add:2", add, "blue", stock=1))
        for wrong in ("", 7, None):
            with pytest.raises((TypeError, ValueError), match="key"):
                await house.settle(once(wrong, add, "blue", stock=1))

    run(house, body)


def test_answers_come_back_as_they_were(house: House) -> None:
    """What JSON would change is refused and nothing stored; `dump` and `load` take anything."""

    @dataclass
    class Receipt:
        number: int

    async def body(till: Till) -> None:
        def returning(answer: object) -> Any:
            @house.function
            async def work() -> object:
                await house.add("row")
                return answer

            return work

        once: Any = till.keys.acall if house.db.is_async else till.keys.call
        for unfit in ((1, 2), {1: "one"}, Receipt(1), float("nan")):
            with pytest.raises(TypeError, match="dump="):
                await house.settle(once("k", returning(unfit)))
        assert [] == await house.stored()
        for fit in (None, True, 1.5, "text", [1, {"a": None}]):
            assert fit == await house.settle(once(f"k{fit}", lambda fit=fit: _made(house, fit)))
            assert fit == await house.settle(once(f"k{fit}", returning(fit)))

        import json

        till.keys = IdempotencyKeys(
            house.db,
            dump=lambda one: json.dumps(asdict(one)),
            load=lambda text: Receipt(**json.loads(text)),
        )
        once = till.keys.acall if house.db.is_async else till.keys.call
        for _ in range(2):
            assert Receipt(1) == await house.settle(once("r", lambda: _made(house, Receipt(1))))

    run(house, body)


def _made(house: House, answer: object) -> Any:
    async def later() -> object:
        return answer

    return later() if house.db.is_async else answer


def test_work_that_needs_itself(house: House) -> None:
    """Work that calls itself under its own key is told so, instead of waiting for itself or getting no answer."""

    async def body(till: Till) -> None:
        @till.keys.idempotent(key=lambda token: token)
        @house.function
        async def again(token: str) -> None:
            await house.settle(again(token))

        with pytest.raises(RuntimeError, match="calls itself"):
            await house.settle(again("a"))

    run(house, body)


@pytest.mark.parametrize("url", ["sqlite-file", "postgres", "mariadb"], indirect=True)
@pytest.mark.parametrize("first", ["succeeds", "fails"])
def test_concurrent_duplicates_wait(house: House, first: str) -> None:
    """A duplicate that comes while the work is under way waits for it: it gets the answer, or does what failed."""
    started, go_on = threading.Event(), threading.Event()
    answers: list[object] = []

    async def body(till: Till) -> None:
        @retry(on=is_transient, attempts=5, backoff=backoff.constant(0.01))
        @till.keys.idempotent(key=lambda token, _number: token)
        def pay(token: str, number: int) -> int:
            house.db.session.add(Paint(name=f"{token} {number}"))
            house.db.session.flush()
            if number == 0:
                started.set()
                assert go_on.wait(PATIENCE)
                if first == "fails":
                    raise Boom
            return number

        def lead() -> None:
            try:
                answers.append(pay("a", 0))
            except Boom:
                answers.append("boom")

        threads = [threading.Thread(target=lead)]
        threads[0].start()
        assert started.wait(PATIENCE)
        threads += [
            threading.Thread(target=lambda number=number: answers.append(pay("a", number)))
            for number in (1, 2, 3)
        ]
        for thread in threads[1:]:
            thread.start()
        await _all_wait(house, 3)
        go_on.set()
        for thread in threads:
            thread.join(PATIENCE)
        # In any order: whoever has been waiting may have its answer before the failure is noted.
        paid = [one for one in answers if one != "boom"]
        assert (4 if first == "succeeds" else 3, 4) == (len(paid), len(answers))
        assert 1 == len(set(paid))
        assert (first == "succeeds") == (0 in paid)
        assert 1 == len(await house.stored())

    run(house, body)


async def _all_wait(house: House, waiting: int) -> None:
    """Return when so many transactions wait for a lock, where the server tells."""
    question = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
        "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = database() AND info LIKE 'INSERT IGN%%'",
    }.get(house.db.engine.dialect.name)
    with house.db.engine.connect() as connection:

        def wait() -> bool:
            if question is None:
                return True
            number = connection.exec_driver_sql(question).scalar_one()
            connection.rollback()
            return number >= waiting

        until(wait)


@pytest.mark.parametrize("url", ["postgres-async"], indirect=True)
def test_concurrent_duplicates_in_tasks(house: House) -> None:
    """The same among tasks: eight at once, one does the work."""

    async def body(till: Till) -> None:
        pay = till.payment()
        answers = await asyncio.gather(*(pay("a", number) for number in range(8)))
        assert 1 == len({answer["amount"] for answer in answers})
        assert (["a"], 1) == (till.done, len(await house.stored()))

    run(house, body)


def test_unknown_commits_may_be_repeated(shared_postgres: str) -> None:
    """Under a key even a COMMIT of unknown outcome may simply be tried again, without a resolver."""
    with Proxy(shared_postgres) as proxy:
        house = House(proxy.url)

        async def body(till: Till) -> None:
            pay = retry(
                on=lambda error: is_transient(error) or isinstance(error, CommitOutcomeUnknownError),
                attempts=4,
                backoff=backoff.constant(0.0),
            )(till.keys.call)
            for number, cut in enumerate([*Cut] * 5):
                proxy.arm(cut)
                assert number == pay(f"pay:{number}", lambda number=number: _add(house, number))
            assert (15, 15) == (len(await house.stored()), proxy.cuts)

        run(house, body)


def _add(house: House, number: int) -> int:
    house.db.session.add(Paint(name=f"{number:02}"))
    return number


def test_the_repetition_notices_a_missing_key(shared_postgres: str) -> None:
    """Without the key the same repetition does work twice: a row more, or one that its name's uniqueness refuses."""
    with Proxy(shared_postgres) as proxy:
        house = House(proxy.url)

        async def scenario() -> None:
            @retry(on=(CommitOutcomeUnknownError,), attempts=4, backoff=backoff.constant(0.0))
            def pay() -> None:
                with house.db.unit_of_work():
                    _add(house, 1)

            proxy.arm(Cut.AFTER)
            with pytest.raises(DBAPIError):
                pay()

        house.run(scenario)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"expires": 0}, ValueError),
        ({"expires": "1"}, TypeError),
        ({"table": ""}, ValueError),
        ({"dump": str}, TypeError),
        ({"dump": 1, "load": 2}, TypeError),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception]) -> None:
    """What is wrong is named when the keys are made."""
    with pytest.raises(error, match=next(iter(options))):
        IdempotencyKeys(DatabaseConnectionManager("sqlite://"), **options)


def test_keys_need_a_manager() -> None:
    """A URL is none."""
    with pytest.raises(TypeError, match="db must be a DatabaseConnectionManager"):
        IdempotencyKeys("sqlite://")  # type: ignore[arg-type]


def test_what_cannot_be_done_once_is_refused_at_decoration() -> None:
    """Generators, functions of the other colour, and keys that are no functions."""
    keys = IdempotencyKeys(DatabaseConnectionManager("sqlite://"))

    def steps() -> Any:
        yield 1

    async def other() -> None: ...

    with pytest.raises(TypeError, match="generator"):
        keys.idempotent(key=lambda: "k")(steps)
    with pytest.raises(TypeError, match="async"):
        keys.idempotent(key=lambda: "k")(other)
    with pytest.raises(TypeError, match="key"):
        keys.idempotent(key="k")  # type: ignore[arg-type]


def test_migrations_see_the_table() -> None:
    """A table in the application's own metadata is created with the others."""
    db = DatabaseConnectionManager("sqlite://")
    metadata = type(Base.metadata)()
    IdempotencyKeys(db, metadata=metadata, table="done")
    metadata.create_all(db.engine)
    assert ["done"] == inspect(db.engine).get_table_names()
    with db.engine.connect() as connection:
        assert 0 == connection.scalar(select(func.count()).select_from(metadata.tables["done"]))
    db.close()
