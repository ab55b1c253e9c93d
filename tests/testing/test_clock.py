"""The virtual clock: time moves when it is moved, wakes whoever is due, and never outruns what is real."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from paintkit import clock as source
from paintkit.testing import FakeClock


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def condition() -> threading.Condition:
    return threading.Condition()


class Heir(threading.Thread):
    """Bears the number of a thread that has ended, as the system may give it to the next one."""

    def __init__(self, departed: threading.Thread, **options: object) -> None:
        super().__init__(**options)
        self._departed = departed

    @property
    def ident(self) -> int | None:
        return self._departed.ident


class Waits:
    """Waits on a condition in a thread of its own, and keeps what came of it."""

    def __init__(self, condition: threading.Condition, timeout: float | None, name: str = "waiter") -> None:
        self.result: bool | None = None
        self.woken_at: float | None = None
        self._condition = condition
        self._timeout = timeout
        self.thread = threading.Thread(target=self._wait, name=name)
        self.thread.start()

    def _wait(self) -> None:
        with self._condition:
            self.result = source.wait(self._condition, self._timeout)
        self.woken_at = source.now()

    def join(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive()


class TestActivation:
    def test_stands_in_for_the_clock_and_steps_back(self):
        """Inside the block the source of time is the fake one, afterwards exactly what it was before."""
        before = (source.now, source.sleep, source.wait)

        with FakeClock(start=7.0) as clock:
            assert (clock.now, clock.sleep, clock.wait) == (source.now, source.sleep, source.wait)
            assert 7.0 == source.now()

        assert before == (source.now, source.sleep, source.wait)

    def test_steps_back_after_an_error(self):
        """An error in the block does not leave the process in virtual time."""
        before = source.now

        with pytest.raises(KeyError), FakeClock():
            raise KeyError

        assert before is source.now
        with FakeClock():
            pass

    def test_is_the_only_one(self, clock):
        """A second clock is refused, in this thread and in any other, and leaves the first one in charge."""
        with pytest.raises(RuntimeError, match="active already"), FakeClock():
            pass
        with pytest.raises(RuntimeError, match="active already"), clock:
            pass
        with ThreadPoolExecutor() as pool, pytest.raises(RuntimeError, match="active already"):
            pool.submit(FakeClock().__enter__).result()

        assert clock.now == source.now

    def test_can_be_entered_again(self):
        """A clock goes on where it stood."""
        clock = FakeClock()
        with clock:
            clock.advance(5)
        with clock:
            assert 5.0 == clock.now()

    @pytest.mark.parametrize(
        ("start", "error"),
        [
            ("0", TypeError),
            (True, TypeError),
            (None, TypeError),
            (float("nan"), ValueError),
            (float("inf"), ValueError),
        ],
    )
    def test_refuses_a_start_that_is_no_instant(self, start, error):
        """The error names the argument."""
        with pytest.raises(error, match="start"):
            FakeClock(start=start)


class TestAdvance:
    @pytest.mark.parametrize("duration", [30, 30.0, timedelta(seconds=30)])
    def test_moves_time(self, clock, duration):
        """Numbers and timedeltas alike."""
        clock.advance(duration)

        assert 30.0 == clock.now()

    def test_by_nothing(self, clock):
        """Zero is a length of time."""
        clock.advance(0)

        assert 0.0 == clock.now()

    @pytest.mark.parametrize(
        ("duration", "error"),
        [
            (-1, ValueError),
            (-0.001, ValueError),
            (float("nan"), ValueError),
            (float("inf"), ValueError),
            ("1", TypeError),
            (None, TypeError),
            (True, TypeError),
        ],
    )
    def test_refuses_what_is_no_duration(self, clock, duration, error):
        """Time never runs backwards, and the error names the argument."""
        with pytest.raises(error, match="seconds"):
            clock.advance(duration)

        assert 0.0 == clock.now()

    def test_always_moves(self):
        """A positive duration moves time even where a float cannot tell so short a one."""
        clock = FakeClock(start=1e9)

        clock.advance(1e-12)

        assert clock.now() > 1e9

    def test_from_many_threads(self, clock):
        """No advance is lost."""
        with ThreadPoolExecutor(8) as pool:
            for _ in range(400):
                pool.submit(clock.advance, 1)

        assert 400.0 == clock.now()


class TestSleep:
    def test_passes_at_once(self, clock):
        """A blocking sleep moves the time by its length, and is noted."""
        source.sleep(3600)
        source.sleep(0)
        source.sleep(0.5)

        assert [3600, 0.5] == clock.sleeps
        assert 3600.5 == clock.now()

    def test_refuses_a_negative_length(self, clock):
        """As `time.sleep` does."""
        with pytest.raises(ValueError, match="-1"):
            source.sleep(-1)

        assert [] == clock.sleeps

    def test_wakes_threads_that_are_due(self, clock, condition):
        """A sleep in one thread is time for all."""
        waits = Waits(condition, 5)
        clock.until_waiting()

        source.sleep(5)
        waits.join()

        assert waits.result is False


class TestWait:
    def test_ends_when_time_is_up(self, clock, condition):
        """Not a moment earlier than its timeout."""
        waits = Waits(condition, 5)
        clock.until_waiting()

        clock.advance(4.999)
        clock.until_waiting()
        assert waits.thread.is_alive()
        clock.advance(0.001)
        waits.join()

        assert waits.result is False
        assert 5.0 == waits.woken_at

    def test_ends_when_notified(self, clock, condition):
        """Without any time passing."""
        waits = Waits(condition, 5)
        clock.until_waiting()

        with condition:
            condition.notify()
        waits.join()

        assert waits.result is True
        assert 0.0 == waits.woken_at

    def test_without_timeout_ends_only_when_notified(self, clock, condition):
        """Time alone does not wake it."""
        waits = Waits(condition, None)
        clock.until_waiting()

        clock.advance(10**9)
        assert waits.thread.is_alive()
        with condition:
            condition.notify_all()
        waits.join()

        assert waits.result is True

    def test_wakes_nobody_else(self, clock, condition):
        """Of several threads on one condition exactly those wake up that are due: none spuriously."""
        early, late = Waits(condition, 5), Waits(condition, 10)
        clock.until_waiting(2)

        clock.advance(5)
        early.join()
        clock.until_waiting(1)

        assert late.thread.is_alive()
        assert late.result is None
        clock.advance(5)
        late.join()

    @pytest.mark.parametrize("_attempt", range(20))
    def test_loses_no_notification(self, clock, condition, _attempt):
        """One notification that races with the end of one wait reaches the other one."""
        expiring, staying = Waits(condition, 5), Waits(condition, None)
        clock.until_waiting(2)

        with condition:
            clock.advance(5)
            condition.notify()
        expiring.join()
        staying.join()

        assert expiring.result is False
        assert staying.result is True

    def test_a_notification_before_the_end_counts(self, clock, condition):
        """Who was notified first is told so, even if time was up before it could run."""
        waits = Waits(condition, 5)
        clock.until_waiting()

        with condition:
            condition.notify()
            clock.advance(5)
        waits.join()

        assert waits.result is True

    @pytest.mark.parametrize("timeout", [0, -1])
    def test_of_no_time_returns_at_once(self, clock, condition, timeout):
        """As the real one does."""
        with condition:
            assert source.wait(condition, timeout) is False

    def test_needs_the_condition_held(self, clock, condition):
        """As the real one does."""
        with pytest.raises(RuntimeError, match="un-acquired"):
            source.wait(condition, 5)

    def test_releases_and_takes_back_the_condition(self, clock):
        """Even if it is held twice."""
        condition = threading.Condition(threading.RLock())
        with condition, condition:
            assert source.wait(condition, 5) is False
            assert condition._is_owned()
        assert not condition._is_owned()

    def test_of_the_driving_thread_moves_time_itself(self, clock, condition):
        """Nobody else would: it goes to the end of its own wait, waking others on the way."""
        other = Waits(threading.Condition(), 3)
        clock.until_waiting()

        with condition:
            assert source.wait(condition, 5) is False
        other.join()

        assert 3.0 == other.woken_at
        assert 5.0 == clock.now()

    def test_of_the_driving_thread_awaits_threads_at_work(self, clock, condition):
        """Time does not move while a thread started since is at work and may notify."""
        asked = threading.Event()

        def work() -> None:
            asked.wait(10)
            with condition:
                condition.notify()

        worker = threading.Thread(target=work)
        worker.start()
        with condition:
            threading.Timer(0, asked.set).start()
            assert source.wait(condition, 5) is True
        worker.join()

        assert 0.0 == clock.now()

    def test_of_the_driving_thread_takes_no_newcomer_for_who_was_there_before(self, condition):
        """Though the system gave it the number of a thread that was there when the clock began, and ended."""
        asked = threading.Event()
        departed = threading.Thread(target=asked.wait, args=(10,))
        departed.start()

        def work() -> None:
            asked.wait(10)
            with condition:
                condition.notify()

        with FakeClock() as clock:
            asked.set()
            departed.join()
            asked.clear()
            worker = Heir(departed, target=work)
            worker.start()
            with condition:
                threading.Timer(0, asked.set).start()
                assert source.wait(condition, 5) is True
            worker.join()

            assert 0.0 == clock.now()

    def test_outlives_the_clock_in_real_time(self, condition):
        """A thread that still waits when the block ends is not lost: it waits on, and can be notified."""
        with FakeClock() as clock:
            short, long = Waits(condition, 0.001), Waits(condition, None)
            clock.until_waiting(2)
        short.join()
        while not condition._waiters:
            time.sleep(0)
        with condition:
            condition.notify_all()
        long.join()

        assert short.result is False
        assert long.result is True

    def test_a_notification_on_the_way_to_real_time_is_not_lost(self, condition):
        """A thread that is sent back by the end of the block has not begun to wait in real time when it is notified."""
        with FakeClock() as clock:
            waits = Waits(condition, None)
            clock.until_waiting()
            condition.acquire()
        condition.notify_all()
        condition.release()
        waits.join()

        assert waits.result is True

    def test_until_waiting_tells_who_is_missing(self, clock):
        """A thread that never comes is an error, not a hang."""
        with pytest.raises(TimeoutError, match="0 threads wait on the clock, not 2"):
            clock.until_waiting(2, patience=0.001)


class TestRun:
    def test_a_thread_that_idles_since_before_does_not_hold_time(self):
        """A worker of a module that was imported long ago waits in real time, and for nobody."""
        idle, leave = threading.Condition(), threading.Event()

        def work():
            with idle:
                leave.set()
                idle.wait(30)

        worker = threading.Thread(target=work, name="paintkit-old", daemon=True)
        worker.start()
        leave.wait(10)

        with FakeClock() as clock:
            clock.run(asyncio.sleep(3_600))
            assert 3_600 == clock.now()

        with idle:
            idle.notify()
        worker.join(10)

    def test_jumps_from_timer_to_timer(self, clock):
        """An hour of sleeps takes no time, and each task sees the instant that it asked for."""
        seen = []

        async def sleeper(seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append(clock.now())

        async def main() -> str:
            await asyncio.gather(sleeper(3600), sleeper(0.25), sleeper(60))
            return "done"

        assert "done" == clock.run(main())
        assert [0.25, 60.0, 3600.0] == seen
        assert [3600, 0.25, 60] == clock.sleeps

    def test_one_time_for_loop_and_blocking_code(self, clock):
        """A blocking sleep inside a coroutine is time for the loop's timers, too."""

        async def main() -> float:
            timer = asyncio.ensure_future(asyncio.sleep(5))
            await asyncio.sleep(0)
            source.sleep(8)
            await timer
            return asyncio.get_running_loop().time()

        assert 8.0 == clock.run(main())

    def test_advance_inside_wakes_tasks(self, clock):
        """Timers that an `advance()` has passed are due at once, in their order."""
        seen = []

        async def sleeper(seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append(seconds)

        async def main() -> None:
            tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (3, 1, 2)]
            await asyncio.sleep(0)
            clock.advance(10)
            await asyncio.gather(*tasks)

        clock.run(main())

        assert [1, 2, 3] == seen
        assert 10.0 == clock.now()

    def test_timeouts_fire_on_time(self, clock):
        """`asyncio.timeout` and `wait_for` live on the same clock."""

        async def main() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(30):
                    await asyncio.sleep(31)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 12)

        clock.run(main())

        assert 42.0 == clock.now()

    def test_blocking_and_asyncio_add_up_alike(self):
        """The same sleeps lead to the same list and the same instant, to the last bit, in both colours."""
        naps = [0.1, 0.2, 0, 0.7, 1e-9, 3.3]

        async def main() -> None:
            for nap in naps:
                await asyncio.sleep(nap)

        with FakeClock() as blocking:
            for nap in naps:
                source.sleep(nap)
        with FakeClock() as loop:
            loop.run(main())

        assert blocking.now() == loop.now()
        assert blocking.sleeps == loop.sleeps

    def test_late_and_short(self):
        """After a billion seconds timers still fire, and the shortest sleep still ends later."""
        with FakeClock(start=1e9) as clock:

            async def main() -> None:
                await asyncio.sleep(1e-12)
                assert clock.now() > 1e9
                await asyncio.sleep(10)

            clock.run(main())
            assert 1e9 + 10 == pytest.approx(clock.now())

    def test_stands_still_while_a_job_is_at_work(self, clock):
        """Whatever a job of an executor takes in real time, it takes none on the clock."""
        started, asked = threading.Event(), threading.Event()

        def job() -> float:
            started.set()
            asked.wait(10)
            return clock.now()

        async def main() -> float:
            loop = asyncio.get_running_loop()
            timer = asyncio.create_task(asyncio.sleep(5))
            future = asyncio.ensure_future(asyncio.to_thread(job))
            await asyncio.sleep(0)
            started.wait(10)
            glance = loop._pause
            glances = []

            def counted(timeout: float | None) -> object:
                glances.append(timeout)
                if len(glances) == 3:  # the loop had every chance to jump
                    asked.set()
                return glance(timeout)

            loop._selector._pause = counted
            seen = await future
            await timer
            assert len(glances) >= 3
            return seen

        assert 0.0 == clock.run(main())
        assert 5.0 == clock.now()

    def test_hands_over_results_before_it_jumps(self, clock):
        """Of a job and a timer the job comes first, every time: its result does not race with a jump."""

        async def main() -> None:
            for _ in range(200):
                async with asyncio.timeout(1):
                    await asyncio.to_thread(int)

        clock.run(main())

        assert 0.0 == clock.now()

    def test_a_job_that_waits_on_the_clock_does_not_hold_it(self, clock, condition):
        """Else both would wait for each other for ever."""

        def job() -> bool:
            with condition:
                return source.wait(condition, 7)

        async def main() -> bool:
            return await asyncio.to_thread(job)

        assert clock.run(main()) is False
        assert 7.0 == clock.now()

    def test_a_job_that_sleeps_moves_the_clock(self, clock):
        """And the loop's timers learn of it."""

        async def main() -> None:
            asked = asyncio.Event()
            timer = asyncio.create_task(asyncio.wait_for(asked.wait(), 5))
            await asyncio.sleep(0)
            await asyncio.to_thread(source.sleep, 6)
            with pytest.raises(TimeoutError):
                await timer

        clock.run(main())

        assert 6.0 == clock.now()

    def test_stands_still_while_a_thread_of_ours_is_at_work(self, clock):
        """A thread named `paintkit…` holds the time until it rests on the clock or ends."""
        asked = threading.Event()
        seen = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            done = asyncio.Event()

            def work() -> None:
                asked.wait(10)
                seen.append(clock.now())
                loop.call_soon_threadsafe(done.set)

            worker = threading.Thread(target=work, name="paintkit-test")
            worker.start()
            threading.Timer(0.01, asked.set).start()
            async with asyncio.timeout(5):
                await done.wait()
            worker.join()
            await asyncio.sleep(5)

        clock.run(main())

        assert [0.0] == seen
        assert 5.0 == clock.now()

    def test_takes_no_newcomer_for_who_was_there_before(self):
        """A thread of ours holds the time also under the number of one that was there when the clock began, and ended."""
        asked = threading.Event()
        departed = threading.Thread(target=asked.wait, args=(10,))
        departed.start()

        async def main() -> None:
            loop, done = asyncio.get_running_loop(), asyncio.Event()

            def work() -> None:
                asked.wait(10)
                loop.call_soon_threadsafe(done.set)

            worker = Heir(departed, target=work, name="paintkit-test")
            worker.start()
            threading.Timer(0, asked.set).start()
            async with asyncio.timeout(5):
                await done.wait()
            worker.join()

        with FakeClock() as clock:
            asked.set()
            departed.join()
            asked.clear()
            clock.run(main())

            assert 0.0 == clock.now()

    def test_jumps_for_a_thread_of_ours_that_waits(self, clock, condition):
        """The next instant may be one that a thread waits for, and no timer of the loop's."""

        async def main() -> list[bool | None]:
            waits = Waits(condition, 3, name="paintkit-test")
            await asyncio.sleep(10)
            waits.join()
            return [waits.result, waits.woken_at == 3.0]

        assert [False, True] == clock.run(main())

    def test_wake_ups_from_foreign_threads_arrive(self, clock):
        """`call_soon_threadsafe` wakes a loop that has nothing else to do."""

        async def main() -> str:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[str] = loop.create_future()
            threading.Thread(target=loop.call_soon_threadsafe, args=(answer.set_result, "hello")).start()
            return await answer

        assert "hello" == clock.run(main())
        assert 0.0 == clock.now()

    def test_wake_ups_at_the_last_moment_arrive(self, clock):
        """What a thread leaves just before it comes to rest is found before time jumps."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            done = asyncio.Event()

            def at_work() -> list[str]:
                loop.call_soon_threadsafe(done.set)
                return []

            loop._at_work = at_work
            async with asyncio.timeout(5):
                await done.wait()

        clock.run(main())

        assert 0.0 == clock.now()

    def test_keeps_pace_with_real_input(self, clock):
        """While a socket is watched the loop waits for it and does not jump to a far timer."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)

            async def main() -> bytes:
                loop = asyncio.get_running_loop()
                threading.Timer(0.01, theirs.send, args=(b"hello",)).start()
                async with asyncio.timeout(3600):
                    return await loop.sock_recv(ours, 10)

            assert b"hello" == clock.run(main())

        assert clock.now() < 3600

    def test_timers_fire_beside_a_silent_socket(self, clock):
        """An idle connection slows time down to the real one, but does not stop it."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)

            async def main() -> None:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await asyncio.get_running_loop().sock_recv(ours, 10)

            clock.run(main())

        assert 0.01 == pytest.approx(clock.now())

    def test_any_executor_counts(self, clock):
        """Jobs of an executor of the user's own hold the time, too."""
        with ThreadPoolExecutor(1) as pool:

            async def main() -> int:
                async with asyncio.timeout(1):
                    return await asyncio.get_running_loop().run_in_executor(pool, int, "7")

            assert 7 == clock.run(main())

    def test_awaits_abandoned_jobs(self, clock):
        """A job whose awaiter was cancelled has ended when `run` returns."""
        asked, ended = threading.Event(), []

        def job() -> None:
            asked.wait(10)
            ended.append(True)

        async def main() -> None:
            task = asyncio.create_task(asyncio.to_thread(job))
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            asked.set()

        clock.run(main())

        assert [True] == ended

    def test_says_what_holds_the_time(self, clock, monkeypatch):
        """A job that never ends is an error that names it, not a hang."""
        monkeypatch.setattr("paintkit.testing._timeline.PATIENCE", 0.01)
        asked = threading.Event()

        def endless() -> None:
            asked.wait(10)

        async def main() -> None:
            await asyncio.to_thread(endless)

        with pytest.raises(RuntimeError, match=r"time stands still while .*endless"):
            _run_and_then(clock, main, asked.set)

    def test_again_and_again(self, clock):
        """Each run has a loop of its own; time goes on."""
        for _ in range(3):
            clock.run(asyncio.sleep(5))

        assert 15.0 == clock.now()

    def test_only_while_active(self):
        """The error tells what to do, and no coroutine is left behind unawaited."""
        with pytest.raises(RuntimeError, match="not active"):
            FakeClock().run(asyncio.sleep(1))

    def test_one_loop_at_a_time(self, clock):
        """A loop in a loop is refused."""

        async def main() -> None:
            with pytest.raises(RuntimeError, match="already"):
                clock.run(asyncio.sleep(1))

        clock.run(main())

    def test_errors_pass(self, clock):
        """What the coroutine raises, `run` raises; tasks left behind are cancelled as by `asyncio.run`."""
        seen = []

        async def left_behind() -> None:
            try:
                await asyncio.sleep(10**6)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        async def main() -> None:
            seen.append(asyncio.create_task(left_behind()))
            await asyncio.sleep(1)
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            clock.run(main())

        assert "cancelled" == seen[-1]
        assert 1.0 == clock.now()


def _run_and_then(clock: FakeClock, main: Callable[[], object], after: Callable[[], object]) -> None:
    try:
        clock.run(main())
    finally:
        after()
