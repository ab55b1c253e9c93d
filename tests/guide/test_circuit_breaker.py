import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from paintkit import (
    CircuitOpenError,
    CircuitState,
    ErrorRecoveryManager,
    RejectedError,
    circuit_breaker,
    fallback,
    observe,
    pipeline,
)
from paintkit.testing import FakeClock
from tests.colours import Colour


class Dependency:
    """Something to call that is well or not."""

    def __init__(self) -> None:
        self.well = True
        self.error: BaseException = ConnectionError("no answer")

    def ask(self) -> str:
        if self.well:
            return "answer"
        raise self.error


def ask(protected: Callable[[], Any], colour: Colour, times: int = 1) -> None:
    """Call and overlook what it raises."""
    for _ in range(times):
        try:
            colour.call(protected)
        except Exception:
            continue


def test_failures_far_apart_do_not_open_the_circuit(colour: Colour) -> None:
    """Row 35: five failures in 405 calls, none after another, are no streak."""
    supplier = Dependency()
    recovery = ErrorRecoveryManager()
    order = recovery.circuit_breaker(failure_threshold=5, name="supplier")(colour.function(supplier.ask))

    for _ in range(5):
        ask(order, colour, times=80)
        supplier.well = False
        ask(order, colour)
        supplier.well = True

    assert CircuitState.CLOSED is recovery.circuit_breakers["supplier"].state
    assert 5 == recovery.circuit_breakers["supplier"].metrics().failures


def opened(supplier: Dependency, **options: Any) -> tuple[Any, Callable[[], Any]]:
    """Return a breaker that has just opened, and what it protects."""
    breaker = circuit_breaker("supplier", failure_threshold=1, recovery_timeout=30.0, **options)
    supplier.well = False
    ask(breaker(supplier.ask), Colour.BLOCKING)
    supplier.well = True
    return breaker, breaker(supplier.ask)


def test_twenty_callers_of_a_half_open_circuit_are_one_probe() -> None:
    """Row 36: of 20 threads that call at once, one gets through while it runs; the others are refused."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> str:
        entered.set()
        assert leave.wait(timeout=20)
        return "answer"

    with FakeClock() as clock:
        breaker, _ = opened(Dependency())
        clock.advance(30.0)
        probe = breaker(hold)
        with ThreadPoolExecutor(20) as threads:
            first = threads.submit(probe)
            assert entered.wait(timeout=20)
            others = [threads.submit(probe) for _ in range(19)]
            refusals = [other.exception(timeout=20) for other in others]
            leave.set()
            assert "answer" == first.result(timeout=20)

    assert [CircuitOpenError] * 19 == [type(refusal) for refusal in refusals]


def test_twenty_tasks_of_a_half_open_circuit_are_one_probe() -> None:
    """Row 36: the same for tasks of one loop."""
    entered = 0

    async def scenario() -> list[Any]:
        leave = asyncio.Event()

        async def hold() -> str:
            nonlocal entered
            entered += 1
            await leave.wait()
            return "answer"

        probe = breaker(hold)
        tasks = [asyncio.ensure_future(probe()) for _ in range(20)]
        await asyncio.wait(tasks[1:])
        leave.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    with FakeClock() as clock:
        breaker, _ = opened(Dependency())
        clock.advance(30.0)
        results = clock.run(scenario())

    assert 1 == entered
    assert "answer" == results[0]
    assert {CircuitOpenError} == {type(result) for result in results[1:]}


def test_a_probe_that_never_comes_back_is_given_up() -> None:
    """Row 37: its permit has an end; after it the circuit is open again, and later probed again."""
    with FakeClock() as clock:
        breaker, order = opened(Dependency(), probes=1, probe_timeout=5.0)
        clock.advance(30.0)
        breaker.guard().__enter__()  # a probe that hangs: nobody will ever leave this block

        with pytest.raises(CircuitOpenError):
            order()
        clock.advance(5.0)
        assert CircuitState.OPEN is breaker.state

        clock.advance(70.0)
        assert "answer" == order()
        assert CircuitState.CLOSED is breaker.state


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(), asyncio.CancelledError()], ids=repr)
def test_an_interrupted_probe_gives_its_permit_back(colour: Colour, interrupt: BaseException) -> None:
    """Row 37: an exception that is none of `Exception` passes, says nothing about the dependency, and blocks nobody."""
    supplier = Dependency()

    def interrupted() -> None:
        raise interrupt

    with FakeClock() as clock:
        breaker, order = opened(supplier, probes=1)
        clock.advance(30.0)
        call = breaker(colour.function(interrupted))
        with pytest.raises(type(interrupt)):
            _run_to_the_end(call, colour)
        assert CircuitState.HALF_OPEN is breaker.state
        assert "answer" == order()
        assert CircuitState.CLOSED is breaker.state


def _run_to_the_end(call: Callable[[], Any], colour: Colour) -> None:
    """Run without a loop: a loop has its own ways with interrupts."""
    if colour is Colour.BLOCKING:
        call()
    else:
        call().send(None)


def test_the_open_time_begins_with_the_failure_not_with_the_call() -> None:
    """Row 38: a call that fails after 20 s opens the circuit for 30 s from its failure on; the wall clock has no say."""
    with FakeClock() as clock:
        breaker = circuit_breaker("supplier", failure_threshold=1, recovery_timeout=30.0)

        @breaker
        def slow() -> None:
            clock.sleep(20.0)
            raise ConnectionError("no answer")

        with pytest.raises(ConnectionError):
            slow()
        clock.advance(29.0)
        assert CircuitState.OPEN is breaker.state
        clock.advance(1.0)
        assert CircuitState.HALF_OPEN is breaker.state


def test_an_error_of_the_caller_says_nothing_about_the_dependency(colour: Colour) -> None:
    """Row 39: a thousand wrong requests neither open the circuit nor end a streak."""
    supplier = Dependency()
    breaker = circuit_breaker("supplier", failure_threshold=2, ignore=(LookupError, ValueError))
    order = breaker(colour.function(supplier.ask))
    supplier.well = False

    ask(order, colour)
    supplier.error = KeyError("no such paint")
    ask(order, colour, times=1000 if colour is Colour.BLOCKING else 10)
    assert CircuitState.CLOSED is breaker.state

    supplier.error = ConnectionError("no answer")
    ask(order, colour)
    assert CircuitState.OPEN is breaker.state


def test_a_refusal_has_a_type_a_name_and_a_time() -> None:
    """Row 40: it can be caught by its own type, and tells which policy refused and when to come back."""
    with FakeClock() as clock:
        _, order = opened(Dependency())
        clock.advance(10.0)

        with pytest.raises(CircuitOpenError) as caught:
            order()

    assert isinstance(caught.value, RejectedError)
    assert ("supplier", 20.0) == (caught.value.policy, caught.value.retry_after)


def test_failures_at_the_same_time_open_the_circuit_once() -> None:
    """Row 41: 16 threads that fail together are 16 failures and one transition; nothing is read and then overwritten."""
    together = threading.Barrier(16, timeout=20)
    breaker = circuit_breaker("supplier", failure_threshold=16)
    transitions = []

    @breaker
    def order() -> None:
        together.wait()
        raise ConnectionError("no answer")

    with (
        observe(lambda one: transitions.append(one.details["after"])),
        ThreadPoolExecutor(16) as threads,
    ):
        errors = [call.exception(timeout=20) for call in [threads.submit(order) for _ in range(16)]]

    assert [ConnectionError] * 16 == [type(error) for error in errors]
    assert [CircuitState.OPEN] == transitions
    assert (16, 1) == (breaker.metrics().failures, breaker.metrics().opened)


def test_functions_of_one_dependency_share_its_circuit(colour: Colour) -> None:
    """Row 42: a name stands for a dependency, not for a function; what fails in one function protects the other."""
    supplier = Dependency()
    recovery = ErrorRecoveryManager()
    order = recovery.circuit_breaker(failure_threshold=1, name="supplier")(colour.function(supplier.ask))
    cancel = recovery.circuit_breaker(failure_threshold=1, name="supplier")(
        colour.function(lambda: "cancelled")
    )
    supplier.well = False

    ask(order, colour)

    with pytest.raises(CircuitOpenError):
        colour.call(cancel)
    assert ["supplier"] == list(recovery.circuit_breakers)


def test_functions_without_a_name_have_circuits_by_their_own() -> None:
    """Row 42: the default name is module and qualified name, never an address that another function gets later."""
    recovery = ErrorRecoveryManager()

    class Printer:
        @recovery.circuit_breaker()
        def status(self) -> str:
            return "ready"

    class Plotter:
        @recovery.circuit_breaker()
        def status(self) -> str:
            return "ready"

    names = sorted(recovery.circuit_breakers)

    assert 2 == len(names)
    assert names[0].endswith("Plotter.status")
    assert names[1].endswith("Printer.status")


def test_one_name_with_two_meanings_is_refused() -> None:
    """Row 42: the same name with other options is a mistake, and told."""
    recovery = ErrorRecoveryManager()
    recovery.circuit_breaker(failure_threshold=5, name="supplier")

    with pytest.raises(
        ValueError, match="'supplier' exists with failure_threshold=5, not failure_threshold=6"
    ):
        recovery.circuit_breaker(failure_threshold=6, name="supplier")


def test_a_circuit_can_be_watched_forced_and_reset(colour: Colour) -> None:
    """Row 43: a listener hears of every change of state; an operator opens, disables and resets by hand."""
    changes: list[tuple[str, str]] = []
    breaker = circuit_breaker(
        "supplier",
        failure_threshold=2,
        on_state_change=lambda before, after: changes.append((before.name, after.name)),
    )
    dependency = Dependency()
    protected = breaker(colour.function(dependency.ask))

    breaker.force_open()
    with pytest.raises(CircuitOpenError):
        colour.call(protected)
    dependency.well = False
    breaker.disable()
    ask(protected, colour, times=5)
    breaker.reset()
    ask(protected, colour, times=2)

    assert CircuitState.OPEN is breaker.state
    assert [
        ("CLOSED", "FORCED_OPEN"),
        ("FORCED_OPEN", "DISABLED"),
        ("DISABLED", "CLOSED"),
        ("CLOSED", "OPEN"),
    ] == changes


def test_a_slow_dependency_opens_the_circuit(colour: Colour) -> None:
    """Row 43: calls that take too long count like failures, and a fallback answers while the circuit is open."""
    with FakeClock() as clock:
        breaker = circuit_breaker("supplier", failure_rate=0.5, min_calls=4, slow_call_duration=2.0)

        def crawl() -> str:
            clock.advance(3.0)
            return "answer"

        protected = pipeline(fallback("yesterday's", on=RejectedError), breaker)(colour.function(crawl))

        assert ["answer"] * 4 == [colour.call(protected) for _ in range(4)]
        assert CircuitState.OPEN is breaker.state
        assert "yesterday's" == colour.call(protected)
