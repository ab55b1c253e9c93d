"""Components: one build each, honest failures, circles named, everything closed in reverse."""

import contextlib
import functools
import itertools
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import ambient, clock, observations
from paintkit.components import ComponentManager
from paintkit.errors import ComponentCycleError, DeadlineExceededError, PaintkitError, UnknownComponentError
from paintkit.testing import FakeClock


class Store:
    """A component that knows how to be closed."""

    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


def waiting(components: ComponentManager, count: int) -> None:
    """Return once that many threads wait for a build."""
    while len(components._awaited) < count:
        os.sched_yield()


def test_a_component_is_built_when_first_needed_and_only_then():
    """Registering builds nothing; every later `get` gives the same object."""
    components, built = ComponentManager(), []
    components.register("store", lambda: built.append("store") or Store())
    assert [] == built
    assert components.get("store") is components.get("store", Store)
    assert ["store"] == built


def test_none_is_a_component_like_any_other():
    """A factory may return None; it still runs once."""
    components, built = ComponentManager(), []
    components.register("nothing", lambda: built.append(1))
    assert (None, None) == (components.get("nothing"), components.get("nothing"))
    assert [1] == built


def test_a_component_of_another_class_than_relied_on_is_an_error():
    """`get(name, kind)` tells at once what would fail later."""
    components = ComponentManager()
    components.register("store", dict)
    with pytest.raises(TypeError, match=r"'store' is a dict, not a Store"):
        components.get("store", Store)


@pytest.mark.parametrize("asked", ["stor", "sotre"])
def test_an_unknown_name_lists_what_is_spelled_alike(asked):
    """The error holds the fix."""
    components = ComponentManager()
    components.register("store", Store)
    components.register("hasher", Store)
    with pytest.raises(UnknownComponentError, match=rf"'{asked}'; did you mean 'store'\?$") as caught:
        components.get(asked)
    assert isinstance(caught.value, LookupError)
    assert isinstance(caught.value, PaintkitError)


@pytest.mark.parametrize("name", [None, ["store"]])
def test_a_name_is_a_string(name):
    """Anything else is a mistake in its own name, whether or not it can be hashed."""
    with pytest.raises(TypeError, match="name must be a string"):
        ComponentManager().get(name)


def test_an_unknown_name_without_likeness_lists_all():
    """Nothing alike: everything there is."""
    components = ComponentManager()
    with pytest.raises(UnknownComponentError, match="nothing is registered yet"):
        components.get("zebra")
    components.register("store", Store)
    with pytest.raises(UnknownComponentError, match="did you mean 'store'"):
        components.get("zebra")


def test_a_failure_is_not_kept():
    """The next `get` tries again."""
    components, results = ComponentManager(), iter([OSError("down"), "up"])

    def factory():
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    components.register("store", factory)
    with pytest.raises(OSError, match="down"):
        components.get("store")
    assert "registered" == components.get_stats()["components"]["store"]
    assert "up" == components.get("store")
    stats = components.get_stats()
    assert (1, 1, "built") == (stats["builds"], stats["build_failures"], stats["components"]["store"])


def test_a_failure_leaves_nothing_for_the_collector():
    """The error, its frames and what they hold die with the `except` block."""
    components = ComponentManager()

    class Held:
        pass

    def factory():
        raise ValueError("bad")

    components.register("store", factory)
    held = Held()
    gone = weakref.ref(held)

    def ask(local):
        components.get("store")

    with contextlib.suppress(ValueError):
        ask(held)
    del held
    assert gone() is None


def test_a_component_that_needs_itself_is_an_error_with_the_path():
    """The circle is named in the order in which it was walked."""
    components = ComponentManager()
    components.register("a", lambda: components.get("b"))
    components.register("b", lambda: components.get("c"))
    components.register("c", lambda: components.get("b"))
    with pytest.raises(ComponentCycleError, match=r"circle: b → c → b$"):
        components.get("a")
    assert {"a": "registered", "b": "registered", "c": "registered"} == components.get_stats()["components"]


def test_a_component_that_needs_itself_directly():
    """The smallest circle."""
    components = ComponentManager()
    components.register("a", lambda: components.get("a"))
    with pytest.raises(ComponentCycleError, match=r"circle: a → a$"):
        components.get("a")


def test_threads_share_one_build():
    """Everybody gets the object of the one build."""
    components, built, release = ComponentManager(), [], threading.Event()

    def factory():
        built.append(1)
        release.wait()
        return Store()

    components.register("store", factory)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(components.get, "store") for _ in range(8)]
        waiting(components, 7)
        release.set()
        stores = {id(future.result()) for future in futures}
    assert (1, 1) == (len(stores), len(built))


def test_threads_share_one_failure_whose_traceback_does_not_grow():
    """All who waited get the factory's error; none adds to what the others see."""
    components, built, release = ComponentManager(), [], threading.Event()

    def factory():
        built.append(1)
        release.wait()
        raise OSError("down")

    def depth():
        try:
            components.get("store")
        except OSError as error:
            length, traceback = 0, error.__traceback__
            while traceback is not None:
                length, traceback = length + 1, traceback.tb_next
            return length

    components.register("store", factory)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(depth) for _ in range(8)]
        waiting(components, 7)
        release.set()
        depths = [future.result() for future in futures]
    assert 1 == len(built)
    assert max(depths) <= 12


def test_an_interrupted_build_passes_to_one_who_waits():
    """A `KeyboardInterrupt` belongs to its own thread; the others are neither hung nor interrupted."""
    components, release, builds = ComponentManager(), threading.Event(), []

    def factory():
        builds.append(1)
        if len(builds) == 1:
            release.wait()
            raise KeyboardInterrupt
        return "built"

    components.register("store", factory)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(components.get, "store") for _ in range(3)]
        waiting(components, 2)
        release.set()
        outcomes = [future.exception() or future.result() for future in futures]
    assert 1 == sum(isinstance(outcome, KeyboardInterrupt) for outcome in outcomes)
    assert 2 == outcomes.count("built")
    assert 2 == len(builds)


def test_two_threads_that_close_a_circle_do_not_hang():
    """A needs B while another thread builds B, which needs A: an error for both, and no deadlock."""
    components, both = ComponentManager(), threading.Barrier(2)
    first = {"a": True, "b": True}

    def factory(name, other):
        if first.pop(name, False):
            both.wait()
        return components.get(other)

    components.register("a", functools.partial(factory, "a", "b"))
    components.register("b", functools.partial(factory, "b", "a"))
    with ThreadPoolExecutor(2) as pool:
        errors = [future.exception() for future in [pool.submit(components.get, name) for name in "ab"]]
    assert [ComponentCycleError, ComponentCycleError] == [type(error) for error in errors]
    assert str(errors[0]).split(": ")[1] in {"a → b → a", "b → a → b"}


def test_threads_that_need_each_others_parts_without_a_circle_wait():
    """What another thread builds is waited for, also from within a factory."""
    components, entered = ComponentManager(), threading.Barrier(2)

    def left():
        entered.wait()
        return ("left", components.get("shared"))

    def shared():
        entered.wait()
        waiting(components, 1)
        return "shared"

    components.register("left", left)
    components.register("shared", shared)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(components.get, "left"), pool.submit(components.get, "shared")]
        assert [("left", "shared"), "shared"] == [future.result() for future in asked]


def test_a_thread_that_has_not_woken_up_yet_closes_no_circle(monkeypatch):
    """Whoever was told that its wait is over, but sleeps on, no longer waits for anybody."""
    components, wait, resting = ComponentManager(), clock.wait, threading.Event()
    both, go_on = threading.Barrier(2), threading.Event()

    def slow_to_wake(condition, timeout):
        woken = wait(condition, timeout)
        if threading.current_thread().name == "slow":
            condition.release()
            resting.set()
            go_on.wait()
            condition.acquire()
        return woken

    def base():
        both.wait()
        waiting(components, 1)
        return "base"

    monkeypatch.setattr(clock, "wait", slow_to_wake)
    components.register("base", base)
    components.register("middle", lambda: (both.wait(), components.get("base"))[1] and "middle")
    components.register("top", lambda: components.get("middle") and "top")
    slow = threading.Thread(target=components.get, args=("middle",), name="slow", daemon=True)
    slow.start()
    components.get("base")
    resting.wait()
    waker = threading.Thread(target=lambda: (waiting(components, 2), go_on.set()), daemon=True)
    waker.start()
    assert "top" == components.get("top")
    for thread in (slow, waker):
        thread.join()


def test_whoever_waits_stops_at_the_own_deadline():
    """A slow build holds nobody beyond the ambient deadline, and goes on."""
    with FakeClock() as fake:
        components, started, release = ComponentManager(), threading.Event(), threading.Event()

        def factory():
            started.set()
            release.wait()
            return "built"

        components.register("store", factory)
        token = ambient.deadline.set(fake.now() + 5.0)
        builder = threading.Thread(target=components.get, args=("store",))
        try:
            builder.start()
            started.wait()
            with ThreadPoolExecutor(1) as pool:
                waiter = pool.submit(ambient.copy_context().run, components.get, "store")
                waiting(components, 1)
                fake.advance(5.0)
                with pytest.raises(DeadlineExceededError, match="store"):
                    waiter.result()
        finally:
            ambient.deadline.reset(token)
            release.set()
            builder.join()
        assert "built" == components.get("store")


def test_a_component_is_built_outside_its_callers_unit_and_deadline():
    """What outlives the caller does not live in the caller's unit of work."""
    components = ComponentManager()
    components.register("seen", lambda: (ambient.deadline.get(), ambient.unit_of_work.get()))
    tokens = ambient.deadline.set(clock.now() + 60), ambient.unit_of_work.set(object())
    try:
        assert (None, None) == components.get("seen")
    finally:
        ambient.deadline.reset(tokens[0])
        ambient.unit_of_work.reset(tokens[1])


def test_components_close_in_reverse_order_of_their_building():
    """What was needed by others outlives them; what was never built is not closed."""
    closed, components = [], ComponentManager()
    components.register("base", lambda: "base", close=closed.append)
    components.register("middle", lambda: components.get("base") and "middle", close=closed.append)
    components.register("top", lambda: components.get("middle") and "top", close=closed.append)
    components.register("idle", lambda: "idle", close=closed.append)
    components.get("top")
    components.close()
    assert ["top", "middle", "base"] == closed
    components.close()
    assert 3 == len(closed)


def test_a_component_closes_by_its_own_method():
    """Without `close=` its own `close()` ends it, if it has one; a block closes at its end."""
    with ComponentManager() as components:
        components.register("store", Store)
        components.register("number", lambda: 7)
        components.get("number")
        store = components.get("store", Store)
        assert 0 == store.closed
    assert 1 == store.closed


def test_after_close_a_component_is_built_anew():
    """A manager can be used again, in tests say."""
    components = ComponentManager()
    components.register("store", Store)
    first = components.get("store")
    components.close()
    assert first is not components.get("store")


def test_a_component_that_cannot_be_closed_does_not_keep_the_others_open():
    """All are tried; the errors come as a group that names each."""
    closed, seen, components = [], [], ComponentManager()

    def fail(instance):
        raise OSError(instance)

    components.register("a", lambda: "a", close=closed.append)
    components.register("b", lambda: "b", close=fail)
    components.register("c", lambda: "c", close=fail)
    for name in "abc":
        components.get(name)
    with observations.observe(seen.append), pytest.raises(ExceptionGroup) as caught:
        components.close()
    assert ["a"] == closed
    assert ["c", "b"] == [str(error) for error in caught.value.exceptions]
    assert ["while closing component 'c'"] == caught.value.exceptions[0].__notes__
    assert ["component_manager.close_failed"] * 2 == [one.kind for one in seen]
    assert (3, 2) == (components.get_stats()["closes"], components.get_stats()["close_failures"])


def test_an_interrupted_close_can_be_repeated():
    """What an interrupt left open is closed by the next `close()`."""
    closed, components = [], ComponentManager()

    def interrupt(instance):
        raise KeyboardInterrupt

    components.register("a", lambda: "a", close=closed.append)
    components.register("b", lambda: "b", close=interrupt)
    components.get("a")
    components.get("b")
    with pytest.raises(KeyboardInterrupt):
        components.close()
    components.close()
    assert ["a"] == closed


def test_a_name_is_taken_once_unless_replaced():
    """An accident is an error; `replace=True` is a decision, and closes both in the end."""
    components = ComponentManager()
    components.register("store", Store)
    first = components.get("store")
    with pytest.raises(ValueError, match="replace=True"):
        components.register("store", Store)
    components.register("store", Store, replace=True)
    second = components.get("store")
    assert first is not second
    components.close()
    assert (1, 1) == (first.closed, second.closed)


async def _coroutine_function():
    raise AssertionError("never reached")


def _generator():
    yield


@pytest.mark.parametrize(
    ("arguments", "kind", "named"),
    [
        ((1, Store), TypeError, "name"),
        (("", Store), ValueError, "name"),
        (("x", None), TypeError, "factory"),
        (("x", 5), TypeError, "factory"),
        (("x", _coroutine_function), TypeError, "factory"),
        (("x", functools.partial(_coroutine_function)), TypeError, "factory"),
        (("x", _generator), TypeError, "factory"),
    ],
)
def test_a_senseless_registration_is_refused(arguments, kind, named):
    """The error names the argument."""
    with pytest.raises(kind, match=named):
        ComponentManager().register(*arguments)


@pytest.mark.parametrize(("options", "named"), [({"close": 1}, "close"), ({"replace": 1}, "replace")])
def test_senseless_options_are_refused(options, named):
    """The same for options."""
    with pytest.raises(TypeError, match=named):
        ComponentManager().register("x", Store, **options)


def test_asking_by_anything_but_a_name_is_a_type_error():
    """A mistake is not an unknown component."""
    with pytest.raises(TypeError, match="name"):
        ComponentManager().get(7)


def test_a_factory_that_returns_a_coroutine_fails(recwarn):
    """Nothing would await it, so it never becomes a component."""
    components = ComponentManager()

    def disguised():
        return _coroutine_function()

    components.register("x", disguised)
    with pytest.raises(TypeError, match="'x'"):
        components.get("x")
    # What others have left behind may be warned of meanwhile.
    assert [] == [str(one.message) for one in recwarn if "never awaited" in str(one.message)]


def test_builds_are_observed():
    """Building and failing are decisions worth telling."""
    seen, components = [], ComponentManager()
    components.register("good", Store)
    components.register("bad", lambda: 1 / 0)
    with observations.observe(seen.append):
        components.get("good")
        with pytest.raises(ZeroDivisionError):
            components.get("bad")
    assert [("component_manager.built", "good"), ("component_manager.build_failed", "bad")] == [
        (o.kind, o.source) for o in seen
    ]


NEEDS = st.lists(st.sets(st.integers(0, 5), max_size=3), min_size=6, max_size=6)


def reaches_itself(needs: list[set[int]], start: int) -> bool:
    """Whether a walk from `start` can come back to where it was."""

    def walk(node: int, way: tuple[int, ...]) -> bool:
        return node in way or any(walk(needed, (*way, node)) for needed in needs[node])

    return walk(start, ())


def _asked(components: ComponentManager, name: str) -> ComponentCycleError | None:
    try:
        components.get(name)
    except ComponentCycleError as error:
        return error
    return None


def check_graph(manager: type[ComponentManager], needs: list[set[int]]) -> None:
    """Ask for everything from three threads: built once and closed in reverse, or a circle that exists is named."""
    components, built, closed = manager(), [], []

    def build(number):
        for needed in sorted(needs[number]):
            components.get(str(needed))
        built.append(str(number))
        return str(number)

    for number in range(len(needs)):
        components.register(str(number), functools.partial(build, number), close=closed.append)

    def ask(order):
        for number in order:
            error = _asked(components, str(number))
            assert reaches_itself(needs, number) == (error is not None)
            if error is not None:
                path = [int(name) for name in str(error).split(": ")[1].split(" → ")]
                assert path[0] == path[-1]
                assert all(after in needs[before] for before, after in itertools.pairwise(path))

    numbers = range(len(needs))
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(ask, order) for order in (numbers, reversed(numbers), numbers)]:
            future.result()
    components.close()
    assert sorted(set(built)) == sorted(built)
    assert sorted(built) == sorted(closed)
    for number in map(int, built):
        for needed in needs[number]:
            assert closed.index(str(number)) < closed.index(str(needed))


@given(needs=NEEDS)
def test_any_graph_of_components_is_built_once_or_its_circle_named(needs):
    """Threads that ask for everything at once never hang, never build twice and never blame the innocent."""
    check_graph(ComponentManager, needs)


class _ClosesInOrder(ComponentManager):
    """A mutant: closes what was built first, first."""

    def close(self):
        self._built.reverse()
        super().close()


def test_the_graph_check_catches_a_wrong_order():
    """The check above has teeth."""
    with pytest.raises(AssertionError):
        check_graph(_ClosesInOrder, [{1}, {2}, set()])
