"""Histories of a bank under crossed writers and killed connections: what was acknowledged is stored, once, and whole.

Every transfer moves money and appends an entry, in one unit of work with a retry around it. Meanwhile its connections are
killed at random. `PAINTKIT_HISTORIES` sets how many transfers each of the four workers makes.
"""

import asyncio
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
from sqlalchemy import String, create_engine, insert, select, update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from paintkit import CommitOutcomeUnknownError, backoff, retry
from paintkit._runtime import drive
from paintkit.sqlalchemy import is_transient
from tests.sqlalchemy import servers
from tests.sqlalchemy.house import House
from tests.sqlalchemy.proxy import Cut, Proxy

Fate = Literal["acknowledged", "failed", "unknown", "committed", "aborted"]

NUMBERS, MONEY, WORKERS = range(1, 5), 100, 4
#: How many connections are killed for each transfer at most, and a number of attempts that they cannot use up.
KILLS, ATTEMPTS = 2, 400
TRANSFERS = int(os.environ.get("PAINTKIT_HISTORIES", "6"))


class Base(DeclarativeBase):
    """The tables of a bank."""


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]


class Entry(Base):
    """One transfer; nothing keeps it from being there twice but the code under test."""

    __tablename__ = "entry"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))
    source: Mapped[int]
    target: Mapped[int]


class Bank(House):
    """Accounts, and what became of every transfer."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.fates: dict[str, Fate] = {}
        #: What every attempt waits for, in the midst of its work.
        self.ambush = threading.Event()
        self.ambush.set()
        self.hooks: list[str] = []

    async def _furnished(self, scenario: Any) -> Any:
        await self._on_engine(Base.metadata.drop_all)
        await self._on_engine(Base.metadata.create_all)
        try:
            async with self.unit() as session:
                session.add_all(Account(id=number, balance=MONEY) for number in NUMBERS)
            return await scenario()
        finally:
            await self._on_engine(Base.metadata.drop_all)
            if self.db.is_async:
                await self.db.aclose()
            else:
                self.db.close()

    def transfer(self, name: str, source: int, target: int) -> Any:
        """Move one unit of money, in a unit of work of its own for every attempt."""

        @retry(
            on=is_transient, attempts=ATTEMPTS, backoff=backoff.exponential(0.002, cap=0.02, jitter="full")
        )
        @self.function
        async def attempt() -> None:
            async with self.unit(isolation="SERIALIZABLE"):
                self.db.on_commit(lambda: self.hooks.append(name))
                # In the order in which they are named, so that writers cross.
                for number, change in ((source, -1), (target, +1)):
                    balance = select(Account.balance).where(Account.id == number)
                    found = (await self.execute(balance)).scalar_one()
                    assert self.ambush.wait(servers.PATIENCE)
                    await self.execute(
                        update(Account).where(Account.id == number).values(balance=found + change)
                    )
                await self.execute(insert(Entry).values(name=name, source=source, target=target))

        return attempt()

    async def work(self, worker: int, first: int) -> None:
        """Make transfers and note what is told of each."""
        chance = random.Random(worker)
        for number in range(first, first + TRANSFERS):
            name = f"{worker}-{number}"
            try:
                await self.settle(self.transfer(name, *chance.sample(NUMBERS, 2)))
            except CommitOutcomeUnknownError as error:
                self.fates[name] = await error.aresolve() if self.db.is_async else error.resolve()
            except DBAPIError:
                self.fates[name] = "failed"
            else:
                self.fates[name] = "acknowledged"

    async def all_work(self, first: int = 0) -> None:
        """Let all workers work at once: tasks, or threads; the transfers of each are counted from `first` on."""
        if self.db.is_async:
            await asyncio.gather(*(self.work(number, first) for number in range(WORKERS)))
            return
        threads = [
            threading.Thread(target=lambda n=number: drive(self.work(n, first))) for number in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)

    async def complaints(self) -> list[str]:
        """Return what is wrong with what is stored, after what was told."""
        async with self.unit(read_only=True):
            entries = (await self.execute(select(Entry.name, Entry.source, Entry.target))).all()
            accounts = (await self.execute(select(Account.id, Account.balance))).all()
        expected = dict.fromkeys(NUMBERS, MONEY)
        for _, source, target in entries:
            expected[source] -= 1
            expected[target] += 1
        wrong = [] if expected == dict(map(tuple, accounts)) else [f"{accounts} is not {expected}"]
        stored, told = Counter(name for name, _, _ in entries), Counter(self.hooks)
        for name, fate in self.fates.items():
            allowed = {
                "acknowledged": {(1, 1)}, "failed": {(0, 0)}, "unknown": {(0, 0), (1, 0)},
                "committed": {(1, 0)}, "aborted": {(0, 0)},
            }[fate]  # fmt: skip
            if (found := (stored[name], told[name])) not in allowed:
                wrong.append(f"{name} was {fate}, and (entries, hooks) are {found}")
        return wrong


@contextmanager
def killing(url: str, bank: Bank) -> Iterator[Counter[str]]:
    """Kill connections to the database of a bank at random, until the block ends; count them.

    However quick the bank is, its first transfers last until one is killed; however slow, killing waits for what it does.
    """
    database = bank.db.engine.url.database
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    over, count, chance = threading.Event(), Counter[str](), random.Random(3)
    is_postgres = admin.dialect.name == "postgresql"
    listing = (
        f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}'"
        if is_postgres
        else f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"
    )

    def kill() -> None:
        with admin.connect() as connection:
            while not over.wait(chance.uniform(0.005, 0.03)):
                if count["killed"] >= KILLS * (WORKERS + len(bank.fates)):
                    continue
                victims = connection.exec_driver_sql(listing).scalars().all()
                if victims:
                    victim = chance.choice(victims)
                    try:
                        connection.exec_driver_sql(
                            f"SELECT pg_terminate_backend({victim})" if is_postgres else f"KILL {victim}"
                        )
                    except OperationalError:
                        continue  # it had gone by itself
                    count["killed"] += 1
                    bank.ambush.set()

    bank.ambush.clear()
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield count
    finally:
        over.set()
        thread.join()
        admin.dispose()


@pytest.mark.parametrize("url", ["postgres", "postgres-async", "mariadb"], indirect=True)
def test_nothing_acknowledged_is_lost_or_done_twice(url: str, request: pytest.FixtureRequest) -> None:
    """Sums are exact, entries are those that were acknowledged, each once, and so are the hooks; connections may die."""
    bank = Bank(url, resolve_commits=True)
    server = request.getfixturevalue("mariadb_url" if url.startswith("mysql") else "postgres_url")

    async def scenario() -> None:
        with killing(server, bank) as count:
            await bank.all_work()
        assert [] == await bank.complaints()
        fates = Counter(bank.fates.values())
        assert (WORKERS * TRANSFERS, 0) == (fates.total(), fates["failed"])
        assert count["killed"] > 0
        await bank.all_work(TRANSFERS)  # now in peace: every one is acknowledged
        assert [] == await bank.complaints()
        assert fates + Counter(acknowledged=WORKERS * TRANSFERS) == Counter(bank.fates.values())

    bank.run(scenario)


class Deadlock(Exception):
    """What a careless program takes for the whole damage."""


def acknowledges_before_the_commit(bank: Bank, name: str) -> None:
    """Tell that it is done, and then commit."""
    bank.fates[name] = "acknowledged"
    with Session(bank.db.engine) as session:
        move(session, name)
        bank.hooks.append(name)
        try:
            session.commit()
        except OperationalError:
            session.rollback()


def repeats_unknown_commits(bank: Bank, name: str) -> None:
    """Take a lost answer for a failure, and do it again."""
    for _ in range(2):
        try:
            with Session(bank.db.engine) as session:
                move(session, name)
                session.commit()
            break
        except OperationalError:
            continue
    bank.hooks.append(name)
    bank.fates[name] = "acknowledged"


def retries_inside(bank: Bank, name: str) -> None:
    """After a deadlock, which undoes everything, repeat the statement that failed instead of the whole."""
    with Session(bank.db.engine) as session:
        session.execute(update(Account).where(Account.id == 1).values(balance=Account.balance - 1))
        for attempt in range(2):
            try:
                if attempt == 0:
                    session.connection().exec_driver_sql("ROLLBACK")
                    raise Deadlock
                session.execute(update(Account).where(Account.id == 2).values(balance=Account.balance + 1))
            except Deadlock:
                continue
        session.execute(insert(Entry).values(name=name, source=1, target=2))
        session.commit()
    bank.hooks.append(name)
    bank.fates[name] = "acknowledged"


def move(session: Session, name: str) -> None:
    for number, change in ((1, -1), (2, +1)):
        session.execute(update(Account).where(Account.id == number).values(balance=Account.balance + change))
    session.execute(insert(Entry).values(name=name, source=1, target=2))


@pytest.mark.parametrize(
    ("fault", "cut"),
    [
        (acknowledges_before_the_commit, Cut.BEFORE),
        (repeats_unknown_commits, Cut.AFTER),
        (retries_inside, None),
    ],
)
def test_the_checker_sees_careless_banks(
    shared_postgres: str, fault: Callable[[Bank, str], None], cut: Cut | None
) -> None:
    """The same check complains of programs that lose, repeat or halve a transfer; of careful ones it does not."""
    with Proxy(shared_postgres) as proxy:
        bank = Bank(proxy.url, resolve_commits=True)

        async def scenario() -> None:
            for number in range(3):
                if cut is not None:
                    proxy.arm(cut)
                await bank.settle(bank.transfer(f"careful {number}", 1, 2))
                bank.fates[f"careful {number}"] = "acknowledged"
            assert [] == await bank.complaints()
            if cut is not None:
                proxy.arm(cut)
            fault(bank, "careless")
            assert 1 <= len(await bank.complaints())

        bank.run(scenario)
