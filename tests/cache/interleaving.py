"""Processes on one second level, or one in memory alone, of which every step is taken by hand, in whatever order.

Calls run as far as the next step that others can come between (a question to the level, a load, a wait), and stop there. In
blocking code each call is a greenlet, so one thread plays them all; in asyncio each is a task.

The model is a table of versions and, for each process, which version of a row is *promised*: a writer changes a row and
invalidates it, and once that returned no call that begins later may see less. In the other process the same holds once word
can have arrived.
"""

import asyncio
import contextlib
import contextvars

import greenlet

from paintkit import CacheManager, ambient, clock
from paintkit.testing import FakeLevel, FakeServer
from tests.cache.units import FakeUnit
from tests.colours import Colour

ROWS = 2


class Greenlets:
    """Calls in blocking code."""

    def __init__(self):
        self._hub = greenlet.getcurrent()
        self.jobs = []

    def start(self, body, *args):
        self.jobs.append(greenlet.greenlet(body, self._hub))
        self._go_on(self.jobs[-1], *args)

    def pause(self):
        if greenlet.getcurrent() is not self._hub:
            self._hub.switch()

    def wait(self, condition, timeout):
        """Stand in for `clock.wait`: let the others go on until it is our turn."""
        condition.release()
        self.pause()
        condition.acquire()
        return True

    def step(self, number):
        self._go_on(self.jobs[number % len(self.jobs)])

    def _go_on(self, job, *args):
        job.switch(*args)
        self.jobs = [one for one in self.jobs if not one.dead]

    def close(self):
        assert not self.jobs


class Tasks:
    """Calls in asyncio."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._stopped = []
        self._tasks = set()

    @property
    def jobs(self):
        return self._stopped

    def start(self, body, *args):
        async def start():
            task = self._loop.create_task(body(*args), context=contextvars.Context())
            self._tasks.add(task)
            await self._settle()

        self._loop.run_until_complete(start())
        self._check()

    async def pause(self):
        here = self._loop.create_future()
        self._stopped.append(here)
        await here

    def wait(self, condition, timeout):
        raise AssertionError("nothing blocks in asyncio")

    def step(self, number):
        async def go_on():
            self._stopped.pop(number % len(self._stopped)).set_result(None)
            await self._settle()

        self._loop.run_until_complete(go_on())
        self._check()

    async def _settle(self):
        while self._loop._ready:
            await asyncio.sleep(0)

    def _check(self):
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()

    def close(self):
        assert not self._tasks
        self._loop.close()


class _Process:
    def __init__(self, world, number):
        self.number = number
        self.level = FakeLevel(world.server)
        # Not by way of the world: the level lives until its cache dies, which would never happen then.
        schedule = world.schedule
        self.level.interlude = lambda _step: schedule.pause()
        self.cache = CacheManager("shop", level2=self.level if world.shared else None)
        self.promised = [0] * ROWS
        self.held = self.cut = False
        self.reading = [0] * ROWS
        self.load = self.cache.cache_result(tags=lambda row: (f"row:{row}", "rows"))(world.loader())


class World:
    """The processes, the table, and what was seen that must not be.

    Two processes share a second level; one that is not `shared` is alone with its memory.
    """

    def __init__(self, colour, *, shared=True):
        self.colour = colour
        self.shared = shared
        self.blocking = colour is Colour.BLOCKING
        self.schedule = Greenlets() if self.blocking else Tasks()
        self.server = FakeServer()
        self.versions = [0] * ROWS
        self.loading = [0] * ROWS
        self.dropping = [0] * ROWS
        self.loads = self.reads = 0
        self.overlapped = False
        self.violations = []
        self.unheard = []  # (row, version, writer, reader): promised as soon as word can have arrived
        self.processes = [_Process(self, number) for number in range(1 + shared)]

    @classmethod
    @contextlib.contextmanager
    def opened(cls, colour, *, shared=True):
        """A world whose waits are steps; at its end all calls have ended."""
        right = clock.wait
        world = cls(colour, shared=shared)
        clock.wait = world.schedule.wait
        try:
            yield world
            world.finish()
        finally:
            clock.wait = right

    def loader(self):
        """Return the function that is cached: it reads the table, or what its unit of work sees of it."""

        def read(row):
            unit = ambient.unit_of_work.get()
            return (self.versions if unit is None else unit.snapshot)[row]

        def begin(row):
            self.loads += 1
            self.loading[row] += 1
            self.overlapped |= self.dropping[row] > 0

        def load(row):
            begin(row)
            try:
                self.schedule.pause()
                value = read(row)
                self.schedule.pause()
                return value
            finally:
                self.loading[row] -= 1

        async def aload(row):
            begin(row)
            try:
                await self.schedule.pause()
                value = read(row)
                await self.schedule.pause()
                return value
            finally:
                self.loading[row] -= 1

        return load if self.blocking else aload

    # --- What processes do ---

    def _do(self, call, *args):
        """Start a scenario of this colour: what it yields is called, or awaited."""

        def run():
            steps = call(*args)
            with contextlib.suppress(StopIteration):
                made = next(steps)
                while True:
                    made = steps.send(made())

        async def arun():
            steps = call(*args)
            with contextlib.suppress(StopIteration):
                made = next(steps)
                while True:
                    made = steps.send(await made())

        self.schedule.start(run if self.blocking else arun)

    def read(self, number, row, *, anew=False):
        """A process asks for a row, or for its value `anew`."""
        self._do(self._read, self.processes[number], row, anew)

    def _read(self, process, row, anew):
        promised = process.promised[row]
        process.reading[row] += 1
        seen = yield lambda: (process.load.refresh if anew else process.load)(row)
        process.reading[row] -= 1
        self.reads += 1
        self.spread_word()
        if seen < promised:
            self.violations.append((process.number, row, promised, seen))

    def read_in_unit(self, number, row):
        """A process asks for a row in a unit of work, which sees the table as it is now."""
        self._do(self._read_in_unit, self.processes[number], row)

    def _read_in_unit(self, process, row):
        unit = FakeUnit()
        unit.snapshot = list(self.versions)
        token = ambient.unit_of_work.set(unit)
        try:
            yield lambda: process.load(row)
        finally:
            ambient.unit_of_work.reset(token)
        unit.commit()

    def write(self, number, row, how):
        """A process changes a row and invalidates it, in one of several ways."""
        self._do(self._write, self.processes[number], row, how)

    def _write(self, process, row, how):
        self.versions[row] += 1
        version = self.versions[row]
        self.dropping[row] += 1
        self.overlapped |= self.loading[row] > 0
        cache = process.cache
        drop = cache.invalidate if self.blocking else cache.ainvalidate
        ways = (
            lambda: process.load.invalidate(row),
            lambda: drop(f"row:{row}"),
            lambda: drop("rows"),
            lambda: drop(process.load),
            drop,
        )
        yield ways[how % len(ways)]
        self.dropping[row] -= 1
        self._promise(process, row, version)
        self.unheard += [
            (row, version, process, reader) for reader in self.processes if reader is not process
        ]
        self.spread_word()

    def _promise(self, process, row, version):
        process.promised[row] = max(process.promised[row], version)

    def spread_word(self):
        """Promise what can have arrived."""
        unheard, self.unheard = self.unheard, []
        for row, version, writer, reader in unheard:
            # Without a link, whoever joins a load that is under way gets what that brings.
            heard = not reader.held and not (reader.cut and reader.reading[row])
            if writer.level.reachable and reader.level.reachable and heard:
                self._promise(reader, row, version)
            else:
                self.unheard.append((row, version, writer, reader))

    # --- What befalls them ---

    def befall(self, number, what, *, lost):
        """Let something happen to a process, or to the server."""
        process = self.processes[number]
        match what % 8:
            case 0:
                process.held = True
                process.level.hold_words()
            case 1:
                process.held = False
                process.level.deliver_words()
            case 2:
                process.cut = True
                process.level.cut_link()
            case 3 if process.level.reachable:
                process.held = process.cut = False
                process.level.mend_link(lost=lost)
            case 4:
                process.cut = True
                process.level.isolate()
            case 5 if not process.level.reachable:
                process.held = process.cut = False
                process.level.rejoin(lost=lost)
            case 6:
                self.server.evict_tokens()
            case 7:
                self.server.restart()
        self.spread_word()

    def finish(self):
        """Mend everything, let all calls end, and see what every process reads then."""
        for process in self.processes:
            process.held = process.cut = False
            process.level.rejoin()
        for _ in range(10_000):
            if not self.schedule.jobs:
                break
            self.schedule.step(0)
        self.spread_word()
        assert not self.unheard
        for number in range(len(self.processes)):
            for row in range(ROWS):
                self.read(number, row)
                while self.schedule.jobs:
                    self.schedule.step(0)
        self.schedule.close()


def history(colour, rng, *, actions=40, shared=True):
    """Take so many random actions; return the world that they made."""
    with World.opened(colour, shared=shared) as world:
        for _ in range(actions):
            dice, number, row = rng.random(), rng.randrange(len(world.processes)), rng.randrange(ROWS)
            jobs = len(world.schedule.jobs)
            if jobs and (dice < 0.6 or jobs > 6):
                world.schedule.step(rng.randrange(jobs))
            elif dice < 0.8:
                world.read(number, row, anew=rng.random() < 0.05)
            elif dice < 0.83:
                world.read_in_unit(number, row)
            elif dice < 0.95:
                world.write(number, row, rng.randrange(5))
            else:
                world.befall(number, rng.randrange(8), lost=rng.random() < 0.5)
    return world


def play(colour, program):
    """Take the actions that the bytes of a program stand for; return the world that they made."""
    with World.opened(colour) as world:
        for byte in program:
            kind, number, row, rest = byte >> 4, byte & 1, byte >> 1 & 1, byte >> 1 & 7
            jobs = len(world.schedule.jobs)
            if kind < 8:
                if jobs:
                    world.schedule.step(byte & 15)
            elif kind < 11:
                world.read(number, row, anew=rest == 7)
            elif kind == 11:
                world.read_in_unit(number, row)
            elif kind < 14:
                world.write(number, row, rest)
            else:
                world.befall(number, rest, lost=kind == 15)
    return world
