"""Connections that are lost during COMMIT, through a proxy that loses them: what is told is what became of the work."""

import pickle
import random
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from paintkit import CacheManager, CommitOutcomeUnknownError, ambient, backoff, clock, retry
from paintkit.sqlalchemy import PoolConfig, is_transient, query_guard
from paintkit.sqlalchemy.commits import Inquiry
from tests.sqlalchemy.house import House
from tests.sqlalchemy.proxy import Cut, Proxy

DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgres-async": "postgresql+psycopg_async",
    "asyncpg": "postgresql+asyncpg",
}


@pytest.fixture
def proxy(shared_postgres: str) -> Iterator[Proxy]:
    """A proxy before the tests' own database."""
    with Proxy(shared_postgres) as proxy:
        yield proxy


@pytest.fixture(params=list(DRIVERS))
def open_house(request: pytest.FixtureRequest, proxy: Proxy) -> Callable[..., House]:
    """Opens houses behind the proxy, in both colours."""
    return lambda **options: House(behind(proxy, DRIVERS[request.param]), **options)


def behind(proxy: Proxy, driver: str) -> str:
    """Return the proxy's URL for a driver; that of libpq is not asyncpg's."""
    url = make_url(proxy.url).set(drivername=driver)
    if driver == DRIVERS["asyncpg"]:
        url = url.set(query={"ssl": "disable"})
    return url.render_as_string(hide_password=False)


def test_answer_that_is_lost_after_the_commit(open_house: Callable[..., House], proxy: Proxy) -> None:
    """The server has committed: so has the unit of work, with its hooks, its result, and objects that stay readable."""
    house = open_house(resolve_commits=True)
    hooks: list[str] = []

    async def scenario() -> None:
        proxy.arm(Cut.AFTER)
        async with house.unit():
            paint = await house.add("red")
            house.db.on_commit(lambda: hooks.append("red"))
        assert (["red"], ["red"], 1) == (await house.stored(), hooks, proxy.cuts)
        assert ("red", 0, True) == (paint.name, paint.stock, paint._sa_instance_state.detached)
        async with house.unit():
            await house.add("blue")
        assert ["blue", "red"] == await house.stored()

    house.run(scenario)


def test_commit_that_never_arrived(open_house: Callable[..., House], proxy: Proxy) -> None:
    """Nothing is stored for certain: the driver's own error is raised, it is transient, and no hook runs."""
    house = open_house(resolve_commits=True)
    hooks: list[str] = []

    async def scenario() -> None:
        proxy.arm(Cut.BEFORE)
        with pytest.raises(DBAPIError) as caught:
            async with house.unit():
                await house.add("red")
                house.db.on_commit(lambda: hooks.append("red"))
        assert is_transient(caught.value)
        assert ([], [], 1) == (await house.stored(), hooks, proxy.cuts)

    house.run(scenario)


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
def test_nobody_can_tell(open_house: Callable[..., House], proxy: Proxy, cut: Cut) -> None:
    """While the server cannot be reached nobody knows: caches are invalidated, hooks do not run, and one may ask later."""
    house = open_house(resolve_commits=True)
    cache = CacheManager()
    hooks: list[str] = []
    loads: list[int] = []
    prices: list[int] = []

    @cache.cache_result(tags=("paints",))
    def count() -> int:
        loads.append(1)
        return len(loads)

    @cache.cache_result
    def price(paint_id: int) -> int:
        prices.append(paint_id)
        return 10 * len(prices)

    async def scenario() -> None:
        count()
        price(1)
        with pytest.raises(CommitOutcomeUnknownError) as caught:
            async with house.unit(timeout=60.0):
                await house.add("red")
                cache.invalidate("paints")
                price.put(99, 1)
                house.db.on_commit(lambda: hooks.append("red"))
                proxy.arm(cut, closed=True)
                # The deadline bounds how long the server is asked; the work before may take its time.
                ambient.deadline.set(clock.now() + 0.3)
        error = caught.value
        assert isinstance(error.__cause__, DBAPIError)
        assert not is_transient(error)
        assert (2, []) == (count(), hooks)
        assert 20 == price(1), "neither the value from before, nor the one that may not be stored"

        async def ask() -> str:
            return await error.aresolve() if house.db.is_async else error.resolve()

        assert "unknown" == await ask()
        proxy.closed = False
        expected = "committed" if cut is Cut.AFTER else "aborted"
        assert expected == await ask()
        assert (["red"] if cut is Cut.AFTER else []) == await house.stored()
        assert "unknown" == pickle.loads(pickle.dumps(error)).resolve()

    house.run(scenario)


def test_without_the_resolver_nobody_asks(open_house: Callable[..., House], proxy: Proxy) -> None:
    """By default no statement is spent on it, and a lost answer is `CommitOutcomeUnknownError`."""
    house = open_house()

    async def scenario() -> None:
        proxy.arm(Cut.AFTER)
        with pytest.raises(CommitOutcomeUnknownError) as caught:
            async with house.unit():
                await house.add("red")
        assert "unknown" == caught.value.resolve()
        assert ["red"] == await house.stored()

    house.run(scenario)


@pytest.mark.parametrize("resolve", [False, True])
def test_answer_that_is_not_there_in_time(proxy: Proxy, resolve: bool) -> None:
    """The driver gives up waiting while its connection stays: who can ask does, else nobody knows; no retry repeats it."""
    house = House(
        behind(proxy, DRIVERS["asyncpg"]), pool=PoolConfig(response_timeout=3.0), resolve_commits=resolve
    )

    async def scenario() -> None:
        @retry(on=is_transient, attempts=3, backoff=backoff.constant(0.0))
        @house.db.with_database_session
        async def work() -> None:
            await house.add("red")

        proxy.arm(Cut.AFTER, silent=True)
        if resolve:
            await work()
        else:
            with pytest.raises(CommitOutcomeUnknownError):
                await work()
        assert (["red"], 1) == (await house.stored(), proxy.cuts)

    house.run(scenario)


def test_guards_do_not_count_it(open_house: Callable[..., House]) -> None:
    """What the resolver asks is no query of the application's."""
    house = open_house(resolve_commits=True)

    async def scenario() -> None:
        with query_guard(max_queries=1):
            async with house.unit():
                await house.add("red")

    house.run(scenario)


def test_another_history_tells_nothing(open_house: Callable[..., House]) -> None:
    """After a failover a number may be another transaction's: the answer is that nobody knows."""
    house = open_house(resolve_commits=True)

    async def scenario() -> None:
        async with house.unit():
            await house.add("red")
            inquiry = await settled(house, lambda session: begin(house, session))
        other = Inquiry(house.db.engine, str(inquiry._number), "0000002A", inquiry._pause)
        for one, expected in ((inquiry, "committed"), (other, "unknown")):
            assert expected == (await one.aresolve() if house.db.is_async else one.resolve())

    house.run(scenario)


def begin(house: House, session: object) -> Inquiry:
    """Begin an inquiry for the open transaction, without committing under it."""
    connection = session.connection()
    inquiry = house.db._resolver.begin_inquiry(connection)
    connection.info.pop("paintkit_commit")
    return inquiry


async def settled(house: House, call: Callable[[object], Inquiry]) -> Inquiry:
    return await house.session.run_sync(call) if house.db.is_async else call(house.session)


ROUNDS = 25


async def walk(house: House, proxy: Proxy, seed: int, rounds: int = ROUNDS) -> None:
    """Append through random cuts, with a retry outside: every acknowledged append is there once, and its hook ran once."""
    chance = random.Random(seed)
    hooks: list[str] = []

    @retry(on=is_transient, attempts=5, backoff=backoff.constant(0.0))
    @house.function
    async def append(name: str) -> None:
        async with house.unit():
            await house.add(f"{name} data")
            await house.add(f"{name} event")  # as an outbox stores it
            house.db.on_commit(lambda: hooks.append(name))

    names = [f"{number:03}" for number in range(rounds)]
    for name in names:
        proxy.arm(chance.choice(list(Cut)))
        await house.settle(append(name))
    stored = await house.stored()
    assert [f"{name} {part}" for name in names for part in ("data", "event")] == stored
    assert names == hooks
    assert proxy.cuts >= rounds


def test_random_cuts(open_house: Callable[..., House], proxy: Proxy) -> None:
    """Wherever the connection goes, what is acknowledged is stored, and stored once: the resolver is never wrong."""
    house = open_house(resolve_commits=True)
    house.run(lambda: walk(house, proxy, 17))


@pytest.mark.parametrize("answer", ["committed", "aborted"])
def test_the_walk_notices_a_resolver_that_guesses(
    shared_postgres: str, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """A resolver that always gives one answer loses an append, or makes it twice (which the name's uniqueness refuses)."""
    monkeypatch.setattr(Inquiry, "_ask", lambda *_: answer)
    with Proxy(shared_postgres) as proxy:
        house = House(proxy.url, resolve_commits=True)
        with pytest.raises((AssertionError, DBAPIError)):
            house.run(lambda: walk(house, proxy, 17))
