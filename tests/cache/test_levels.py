"""A second level: what one process loads the others find, and what one drops is gone for all."""

import asyncio
import contextvars
import functools
import gc

import pytest

from paintkit import DeadlineExceededError, deadline, observe
from paintkit.cache import sharing
from paintkit.cache.store import Store
from paintkit.testing import FakeClock, FakeServer
from tests.cache.processes import WAYS, Process
from tests.cache.units import unit_of_work
from tests.colours import Colour


@pytest.fixture
def clock():
    """Virtual time."""
    with FakeClock() as clock:
        yield clock


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


@pytest.fixture
def both(clock, server, colour, table):
    """Make two processes whose function has options."""
    return lambda **options: [Process(server, colour).define(table, **options) for _ in range(2)]


@pytest.fixture(params=WAYS)
def how(request):
    """Every way to name what concerns a call."""
    return request.param


@pytest.fixture(params=["here", "there"])
def who(request, here, there):
    """The process that invalidates."""
    return {"here": here, "there": there}[request.param]


def hang(process):
    """Let the next question of a process in asyncio get no answer; return what tells that it has been asked."""
    asked = asyncio.Event()

    async def stay():
        asked.set()
        await asyncio.get_running_loop().create_future()

    def interlude(_step):
        process.level.interlude = lambda _step: None
        return stay()

    process.level.interlude = interlude
    return asked


class Curious:
    """When it is read from the level it asks for itself, once."""

    ask = None

    def __setstate__(self, _state):
        ask, Curious.ask = Curious.ask, None
        if ask is not None:
            ask()

    def __getstate__(self):
        return {"there": "is one"}


def test_a_value_is_loaded_once_for_all(here, there):
    """What one process loaded the other finds in the second level, and from then on in its own memory."""
    assert [1, 1, 1, 1] == [here(), there(), there(), here()]
    assert ["red"] == here.loads + there.loads
    assert 1 == there.stats["level2_hits"]
    assert 1 == there.stats["hits"]
    assert 0 == there.stats["loads"]
    assert 1 == there.level.counts["looked"]


@pytest.mark.parametrize("value", [None, 0, "", ()], ids=repr)
def test_nothing_is_a_value(here, there, table, value):
    """T18: `None` and what is falsy is found in the second level like any other value."""
    table["red"] = value
    assert [value, value] == [here(), there()]
    assert [] == there.loads


def test_callers_in_two_processes_share_no_object(here, there, table):
    """T19: what one process does to a value the others do not see."""
    table["red"] = [1]
    here().append(2)
    assert [1] == there()


def test_a_copy_lives_no_longer_than_the_value(clock, both, table):
    """T20: whoever finds a value late has it for what is left of its time, whatever clocks say."""
    here, there = both(timeout=60)
    here()
    clock.advance(40)
    assert 1 == there()
    table["red"] = 2
    clock.advance(19)
    assert [1, 1] == [here(), there()]
    clock.advance(2)
    assert [2, 2] == [there(), here()]


def test_what_one_process_drops_is_gone_for_all(here, there, table, how):
    """An invalidation reaches the copies in all memories."""
    assert [1, 1] == [here(), there()]
    table["red"] = 7
    there.invalidate(how)
    assert [7, 7] == [here(), there()]


def test_an_invalidation_of_something_else_costs_nothing(here, there):
    """What does not bear the mark stays, here and there."""
    assert [1, 1, 2, 2] == [here(), there(), here("blue"), there("blue")]
    there.cache.invalidate("sku:blue")
    here()
    there()
    assert ["red", "blue"] == here.loads
    assert [] == there.loads


@pytest.mark.parametrize("step", ["look", "looked", "fill", "filled"])
def test_an_invalidation_at_every_step_of_a_load(here, there, who, how, step):
    """T1, T25: at whatever step a value is changed and invalidated, by whomever, nobody sees the old one afterwards."""

    def change():
        here.table["red"] = 7
        who.invalidate(how)

    here.at(step, change)
    assert here() in {1, 7}
    assert [7, 7] == [here(), there()]


class Changing(dict):
    """A table of which a row changes just after it was read."""

    def __getitem__(self, sku):
        value = super().__getitem__(sku)
        if value == 1:
            self["red"] = 7
            self.then()
        return value


def test_an_invalidation_during_the_load_itself(clock, server, colour, how):
    """T1: a value that was read before it was changed is not kept, neither here nor there."""
    for late in (False, True):
        table = Changing(red=1)
        here, there = (Process(server, colour).define(table) for _ in range(2))
        there.cache.invalidate()
        table.then = functools.partial((there if late else here).invalidate, how)
        assert 1 == here()
        assert [7, 7] == [here(), there()]


@pytest.mark.parametrize("step", ["drop", "dropped"])
def test_who_reads_while_it_is_invalidated_keeps_nothing_old(here, there, table, how, step):
    """An old value that somebody finds in the second level just before it is dropped there goes, too."""
    assert [1, 1] == [here(), there()]
    table["red"] = 7
    seen = []
    here.at(step, lambda: seen.append(here.aside(here.price, "red")))
    here.invalidate(how)
    assert seen[0] in {1, 7}
    assert [7, 7] == [here(), there()]


def test_the_laws_catch_a_process_that_forgets_only_once(here, there, table, monkeypatch):
    """Without the second look into memory the law above fails."""

    async def spread(self, target, runtime):
        await self.sharing.port(runtime).drop(target.changes)

    monkeypatch.setattr(Store, "_spread", spread)
    assert [1, 1] == [here(), there()]
    table["red"] = 7
    here.at("drop", lambda: here.aside(here.price, "red"))
    here.invalidate("tag")
    assert 1 == here()


# --- The link ---


def test_word_that_is_late_acts_when_it_arrives(here, there, table):
    """P2: as long as word is under way another process serves its copy; then no more."""
    assert [1, 1] == [here(), there()]
    there.level.hold_words()
    table["red"] = 7
    here.drop()
    assert [7, 1] == [here(), there()]
    there.level.deliver_words()
    assert 7 == there()


def test_a_hit_asks_nobody(here, there):
    """As long as the link is up memory answers alone."""
    here()
    there()
    before = there.level.counts["looked"]
    assert [1] * 10 == [there() for _ in range(10)]
    assert before == there.level.counts["looked"]


def test_without_a_link_a_copy_is_verified_before_it_is_served(here, there, table):
    """P3: one question for each call, no load if nothing has changed, and what was changed is seen at once."""
    assert [1, 1] == [here(), there()]
    there.level.cut_link()
    assert [1, 1] == [there(), there()]
    assert [] == there.loads
    assert 2 == there.stats["unverified"]
    table["red"] = 7
    here.drop()
    assert [7, 7] == [there(), here()]


def test_after_a_gap_every_copy_is_verified_once(here, there, table):
    """P3: no flush and no herd: what is up to date is confirmed by one question each, the rest is replaced."""
    for sku in ("red", "blue"):
        assert here(sku) == there(sku)
    there.level.cut_link()
    table["red"] = 7
    here.drop("red")
    there.level.mend_link(lost=True)
    looks = there.level.counts["looked"]
    assert [7, 2, 7, 2] == [there(), there("blue"), there(), there("blue")]
    assert ["red"] == there.loads
    assert looks + 2 == there.level.counts["looked"]


def test_what_is_replayed_costs_no_question(here, there, table):
    """A link that comes back with all words leaves the other copies as they are."""
    for sku in ("red", "blue"):
        assert here(sku) == there(sku)
    there.level.cut_link()
    table["red"] = 7
    here.drop("red")
    there.level.mend_link()
    looks = there.level.counts["looked"]
    assert 2 == there("blue")
    assert looks == there.level.counts["looked"]
    assert 7 == there("red")


@pytest.mark.parametrize("step", ["looked", "fill", "filled"])
def test_a_load_over_a_gap_is_not_trusted(here, there, table, step):
    """What was looked up before a gap may have been changed within it."""
    if step == "looked":
        there()

    def gap():
        here.level.cut_link()
        table["red"] = 7
        there.cache.invalidate("sku:red")
        here.level.mend_link(lost=True)

    here.at(step, gap)
    here()
    assert 7 == here()


def test_the_laws_catch_a_gap_that_is_ignored(here, there, table, monkeypatch):
    """Without doubt the law of gaps fails."""
    monkeypatch.setattr(Store, "doubt", lambda self: None)
    assert [1, 1] == [here(), there()]
    there.level.cut_link()
    table["red"] = 7
    here.drop()
    there.level.mend_link(lost=True)
    assert 1 == there()


def test_an_error_that_is_kept_is_doubted_too(both, table):
    """Errors stay in memory; what was missed concerns them like values."""
    here, there = both(cache_errors=LookupError)
    table["red"] = LookupError("sold out")
    for _ in range(2):
        with pytest.raises(LookupError):
            there()
    assert ["red"] == there.loads
    there.level.cut_link()
    table["red"] = 7
    here.drop()
    there.level.mend_link(lost=True)
    assert 7 == there()


def test_those_who_wait_share_one_question(clock, server, table):
    """One question for each call and process, however many wait."""
    here, there = (Process(server, Colour.ASYNCIO).define(table) for _ in range(2))
    here()

    async def many():
        return await asyncio.gather(*(there.price("red") for _ in range(50)))

    assert [1] * 50 == clock.run(many())
    assert 1 == there.level.counts["looked"]
    assert [] == there.loads


def test_who_is_cancelled_at_a_question_takes_nobody_along(clock, server, table):
    """T6: whoever waits for a caller that is cancelled while it asks, asks again, and nobody loads."""
    here, there = (Process(server, Colour.ASYNCIO).define(table) for _ in range(2))
    here()

    async def scenario():
        asked = hang(there)
        first = asyncio.create_task(there.price("red"))
        await asked.wait()
        others = [asyncio.create_task(there.price("red")) for _ in range(3)]
        await asyncio.sleep(1)
        first.cancel()
        return await asyncio.gather(first, *others, return_exceptions=True)

    first, *others = clock.run(scenario())
    assert isinstance(first, asyncio.CancelledError)
    assert [1, 1, 1] == others
    assert [] == there.loads


def test_a_deadline_ends_a_question(clock, server, table):
    """A caller in asyncio waits for an answer no longer than it may; whoever waits for it asks again."""
    here, there = (Process(server, Colour.ASYNCIO).define(table) for _ in range(2))
    here()

    async def hasty():
        with deadline(5.0):
            await there.price("red")

    async def scenario():
        asked = hang(there)
        first = asyncio.create_task(hasty())
        await asked.wait()
        return await asyncio.gather(first, there.price("red"), return_exceptions=True)

    began = clock.now()
    first, second = clock.run(scenario())
    assert isinstance(first, DeadlineExceededError)
    assert 1 == second
    assert 5.0 == pytest.approx(clock.now() - began)
    assert [] == there.loads


def test_a_loop_that_closes_at_a_question_strands_nobody(server, table):
    """T8: a question whose loop ended before its answer is asked anew by the next caller."""
    there = Process(server, Colour.ASYNCIO).define(table)
    loop = asyncio.new_event_loop()
    asked = hang(there)
    task = loop.create_task(there.price("red"))
    loop.run_until_complete(asked.wait())
    loop.close()
    assert 1 == there()
    task._log_destroy_pending = False  # nobody can finish it any more; tell asyncio that we know


def test_a_value_that_asks_for_itself_when_it_is_read_waits_for_nobody(clock, server, table):
    """T3: reading what the level has runs code of the value's class, which is on its way in that flight."""
    here, there = (Process(server, Colour.BLOCKING).define(table) for _ in range(2))
    table["red"] = Curious()
    here()
    Curious.ask = there
    assert isinstance(there(), Curious)
    assert ["red"] == there.loads


# --- The level is away ---


def test_without_the_level_memory_serves(clock, both, table):
    """P4: copies serve for as long as they live; then they are loaded, once, and kept."""
    here, _ = both(timeout=60)
    assert 1 == here()
    here.level.isolate()
    table["red"] = 7
    clock.advance(59)
    assert [1, 1] == [here(), here()]
    clock.advance(2)
    assert [7, 7] == [here(), here()]
    assert ["red", "red"] == here.loads


def test_max_unverified_ends_that(clock, server, colour, table):
    """P4: only so long, if that was said; then every call loads until the level is back."""
    here = Process(server, colour, max_unverified=10).define(table)
    assert 1 == here()
    here.level.isolate()
    table["red"] = 7
    clock.advance(9)
    assert 1 == here()
    clock.advance(2)
    assert [7, 7] == [here(), here()]
    assert 3 == len(here.loads)


def test_an_invalidation_without_the_level_acts_at_once_and_is_repeated(here, there, table, how):
    """P4: here at once, there as soon as the level is back, and this process does not read the old value from it."""
    assert [1, 1] == [here(), there()]
    here.level.isolate()
    table["red"] = 7
    here.invalidate(how)
    assert [7, 1] == [here(), there()]
    here.level.rejoin()
    assert [7, 7] == [there(), here()]


def test_a_level_that_is_away_fails_no_step(here):
    """Loading, putting, refreshing and invalidating go on without it."""
    here.level.isolate()
    assert 1 == here()
    here.colour.call(here.price.put, 5, "red")
    assert 5 == here()
    assert 1 == here.colour.call(here.price.refresh, "red")
    here.drop()
    here.cache.invalidate()
    assert 1 == here()


def test_copies_are_verified_once_the_level_is_back(here, there, table):
    """What others changed while it was away is seen as soon as it is back."""
    assert [1, 1] == [here(), there()]
    here.level.isolate()
    table["red"] = 7
    there.drop()
    assert [1, 7] == [here(), there()]
    here.level.rejoin(lost=True)
    assert 7 == here()


# --- The level forgets ---


def test_tokens_that_are_lost_make_values_invalid(here, there, server, table):
    """T28: a token that was evicted is replaced by another: what was filled under it is never valid again."""
    assert 1 == here()
    table["red"] = 7
    here.cache.invalidate("prices")
    assert 7 == here()
    server.evict_tokens()
    assert 7 == there()
    assert ["red"] == there.loads


def test_word_of_a_tag_drops_no_value_that_came_after_it(here, there, server, table):
    """T27: a tag is no instant: what was loaded under the new token stays, in the level and in memory."""
    assert 1 == here()
    here.cache.invalidate("prices")
    there()
    assert [1, 1, 1] == [here(), there(), here()]
    assert 2 == len(here.loads + there.loads)


def test_a_server_that_comes_back_empty_is_filled_again(here, there, server):
    """Nothing stale, nothing stuck."""
    assert [1, 1] == [here(), there()]
    server.restart()
    assert [1, 1] == [here(), there()]
    assert ["red", "red"] == here.loads + there.loads


def test_a_load_that_outlives_its_mark_fills_nothing(clock, here, there):
    """T24: whoever loads longer than any load should is too late to share it, and serves it all the same."""
    here.at("fill", lambda: clock.advance(61))
    assert 1 == here()
    assert 1 == here()
    assert 1 == there()
    assert ["red"] == there.loads


def test_of_two_loads_the_first_is_shared(here, there):
    """T24: who loads beside another one is refused, and releases nothing that is the other's."""
    here.at("fill", lambda: there.aside(there.price, "red"))
    here()
    assert ["red"] == there.loads
    assert 1 == here.level.counts["refused"]
    assert 1 == here() == there()


def test_what_cannot_travel_stays_in_memory(here, table):
    """A value that has no bytes is cached as without a second level."""
    table["red"] = lambda: None
    assert here() is here()
    assert ["red"] == here.loads
    assert 1 == here.level.counts["unfit"]


# --- What is kept ---


def test_errors_stay_in_memory(both, table):
    """An error that is an answer is one for this process; the others ask themselves."""
    here, there = both(cache_errors=LookupError)
    table["red"] = LookupError("sold out")
    for process in (here, here, there):
        with pytest.raises(LookupError):
            process()
    assert ["red"] == here.loads == there.loads


def test_an_old_value_helps_out_in_another_process(clock, both, table):
    """What one process loaded answers in all after an error, and each tries again only after a pause."""
    here, there = both(timeout=10, stale_on_error=100)
    here()
    clock.advance(20)
    table["red"] = OSError("database away")
    seen = []
    with observe(seen.append):
        assert 1 == there()
    assert ["cache.load_failed"] == [one.kind for one in seen]
    assert [1, 1, 1] == [there(), there(), here()]
    assert 2 == len(there.loads)
    assert 2 == there.stats["load_errors"]
    clock.advance(100)
    with pytest.raises(OSError):
        there()


def test_an_old_value_serves_in_another_process_before_it_is_renewed(clock, both, table):
    """With `stale` the first call there is answered at once."""
    here, there = both(timeout=10, stale=100)
    here()
    clock.advance(20)
    table["red"] = 7
    assert 1 == there()
    assert [] == there.loads


@pytest.mark.parametrize("option", ["early", "stale"])
def test_a_renewal_loads(clock, server, table, option):
    """A copy that is to be renewed is not taken for renewed because the level has the same; then all have the new one."""
    options = {"early": {"timeout": 100, "early": 1.0}, "stale": {"timeout": 100, "stale": 100}}[option]
    here, there = (Process(server, Colour.ASYNCIO).define(table, **options) for _ in range(2))

    async def scenario():
        await here.price("red")
        entry = next(iter(here.cache._store.level))
        if option == "early":
            entry.due = clock.now()
        else:
            clock.advance(150)
        table["red"] = 7
        assert 1 == await here.price("red")
        await asyncio.sleep(0.1)
        assert 7 == await here.price("red")
        assert 7 == await there.price("red")

    clock.run(scenario())
    assert [] == there.loads


def test_what_is_not_for_keeping_removes_what_was(both, table, colour):
    """A value that is not kept takes the place of an older one, for all."""
    here, there = both(timeout=lambda value: 60 if value == 1 else 0)
    assert [1, 1] == [here(), there()]
    table["red"] = 7
    assert 7 == colour.call(here.price.refresh, "red")
    assert [7, 7] == [there(), here()]


# --- Extras ---


def test_what_is_put_is_there_for_all(here, there):
    """`put` replaces the value everywhere."""
    assert [1, 1] == [here(), there()]
    here.colour.call(here.price.put, 5, "red")
    assert [5, 5] == [here(), there()]
    assert [] == there.loads


def test_what_is_refreshed_is_there_for_all(here, there, table):
    """`refresh` tells the others, too."""
    assert [1, 1] == [here(), there()]
    table["red"] = 7
    assert 7 == here.colour.call(here.price.refresh, "red")
    assert [7, 7] == [here(), there()]
    assert [] == there.loads


@pytest.mark.parametrize("extra", ["put", "refresh"])
@pytest.mark.parametrize("step", ["looked", "fill", "filled"])
def test_an_invalidation_at_every_step_of_an_extra(here, there, table, extra, step):
    """`put` and `refresh` give way to an invalidation that comes before they end."""
    assert [1, 1] == [here(), there()]

    def change():
        table["red"] = 7
        there.invalidate("tag")

    here.at(step, change)
    arguments = {"put": (here.price.put, 5, "red"), "refresh": (here.price.refresh, "red")}[extra]
    here.colour.call(*arguments)
    assert [7, 7] == [here(), there()]


def test_explain_tells_of_doubt(here):
    """`explain` says why a copy would not be served, `peek` does not show it."""
    here()
    assert here.colour.call(here.price.explain, "red").fresh
    here.level.lose_words()
    told = here.colour.call(here.price.explain, "red")
    assert (False, "unverified") == (told.fresh, told.missed)
    assert here.colour.call(here.price.peek, "red") is None
    here()
    assert here.colour.call(here.price.explain, "red").fresh


def test_variants_go_together(both, table):
    """T30: `vary` keeps variants apart for all, and dropping the call drops them all, for all."""
    language = contextvars.ContextVar("language", default="en")
    here, there = both(vary=(language,))

    def german(process):
        language.set("de")
        return process()

    for process in (here, there):
        process()
        contextvars.copy_context().run(german, process)
    assert 2 == len(here.loads)
    assert [] == there.loads
    table["red"] = 7
    here.drop()
    for process in (there, here):
        assert 7 == process()
        assert 7 == contextvars.copy_context().run(german, process)
    here.colour.call(here.price.put, 9, "red")
    assert [9, 7] == [here(), there()]


# --- Units of work ---


@pytest.fixture
def inside(colour, clock):
    """Run `body(call)` in a context of its own, in which `call` calls functions of the colour."""

    def run(body):
        def call(function, *args):
            if colour is Colour.BLOCKING:
                return function(*args)
            with asyncio.Runner() as runner:
                return runner.run(function(*args), context=contextvars.copy_context())

        return contextvars.copy_context().run(body, call)

    return run


def test_a_unit_finds_what_others_loaded_and_shares_nothing(here, there, inside):
    """T29: what a unit reads may be older than what it asks of the level, so it is not put there."""
    here("red")

    def body(call):
        with unit_of_work():
            assert 1 == call(there.price, "red")
            assert 2 == call(there.price, "blue")

    inside(body)
    assert ["blue"] == there.loads
    assert 1 == there.stats["level2_hits"]
    assert 0 == there.level.counts["filled"]
    assert 2 == here("blue")
    assert ["red", "blue"] == here.loads


def test_a_refresh_in_a_unit_loads(here, there, table, inside):
    """What the level has is no answer to who wants it anew."""
    here("red")
    table["red"] = 7

    def body(call):
        with unit_of_work():
            assert 7 == call(there.price.refresh, "red")

    inside(body)
    assert 7 == there()


def test_a_unit_reads_around_what_it_invalidated(here, there, table, inside):
    """T29: it sees its own change at once, the others after the commit, and nobody if it is rolled back."""
    assert [1, 1] == [here(), there()]

    def body(call):
        with pytest.raises(ZeroDivisionError), unit_of_work() as unit:
            unit.wrote = True
            table["red"] = 5
            call(here.price.invalidate, "red")
            assert 5 == call(here.price, "red")
            assert 1 == contextvars.Context().run(there)
            table["red"] = 1
            1 / 0
        with unit_of_work() as unit:
            unit.wrote = True
            table["red"] = 7
            call(here.price.invalidate, "red")
            assert 1 == contextvars.Context().run(there)

    inside(body)
    assert [7, 7] == [there(), here()]


def test_what_a_unit_puts_is_shared_after_its_commit(here, there, inside):
    """A put looks at once and fills after the commit; an invalidation in between wins."""
    assert [1, 1] == [here(), there()]

    def body(call, *, overtaken):
        with unit_of_work():
            call(here.price.put, 5, "red")
            assert overtaken or contextvars.Context().run(there) == 1
            if overtaken:
                contextvars.Context().run(there.cache.invalidate, "prices")

    inside(lambda call: body(call, overtaken=False))
    assert [5, 5] == [there(), here()]
    inside(lambda call: body(call, overtaken=True))
    assert [1, 1] == [there(), here()]


def test_a_unit_in_asyncio_is_settled_in_asyncio(clock, server, table):
    """After the commit of an asyncio unit invalidations take the asyncio way to the level."""
    here, there = (Process(server, Colour.ASYNCIO).define(table) for _ in range(2))
    assert [1, 1] == [here(), there()]

    async def scenario():
        with unit_of_work() as unit:
            unit.is_async = True
            await here.price.invalidate("red")
            here.cache.invalidate("prices")
            deferred, unit._deferred = unit._deferred, []
        assert 2 == len(deferred)
        for action in deferred:
            await action()

    table["red"] = 7
    clock.run(scenario())
    assert [7, 7] == [there(), here()]


def test_statistics_tell_of_both_levels(here, there):
    """Hits by level, doubts, and what the level tells itself."""
    here()
    there()
    there()
    there.level.lose_words()
    there()
    stats = there.stats
    assert (1, 1, 1, 0) == (stats["hits"], stats["level2_hits"], stats["unverified"], stats["loads"])
    assert 2 == stats["level2"]["looked"]
    info = there.colour.call(there.price.info)
    assert (1, 1) == (info.level2_hits, info.unverified)


def test_a_shared_flight_leaves_no_garbage(clock, server, table):
    """T2: an error that was raised from a load is freed without the collector, and the next call loads again."""
    here = Process(server, Colour.BLOCKING).define(table)
    table["red"] = LookupError("sold out")
    gc.collect()
    gc.disable()
    try:
        before = shared_flights()  # of other tests, which somebody may still hold
        for _ in range(3):
            with pytest.raises(LookupError):
                here()
        assert [] == [one for one in shared_flights() if one not in before]
    finally:
        gc.enable()
    assert 3 == len(here.loads)


def shared_flights():
    return [one for one in gc.get_objects() if isinstance(one, sharing.SharedFlight)]
