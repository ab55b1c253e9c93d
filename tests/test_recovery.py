"""The registry: a name is one policy, and what it has done can be read."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from paintkit import CircuitOpenError, CircuitState, ErrorRecoveryManager
from paintkit.testing import FakeClock, scripted


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def recovery() -> ErrorRecoveryManager:
    return ErrorRecoveryManager()


class TestRetries:
    def test_max_retries_are_attempts_after_the_first(self, recovery, colour):
        """Three retries are four attempts."""
        call = colour.script(forever=OSError)

        with pytest.raises(OSError):
            colour.call(recovery.with_retry(max_retries=3, exceptions=(OSError,), name="supplier")(call))

        assert 4 == call.count

    def test_defaults(self, recovery, colour, clock):
        """Four attempts on any exception, full jitter below 1, 2 and 4 seconds."""
        call = colour.script(forever=KeyError)

        with pytest.raises(KeyError):
            colour.call(recovery.with_retry()(call))

        assert 4 == call.count
        assert all(0 <= nap <= ceiling for nap, ceiling in zip(clock.sleeps, (1, 2, 4), strict=True))

    def test_no_retries(self, recovery, colour, clock):
        """Zero is one attempt."""
        call = colour.script(OSError, "never")

        with pytest.raises(OSError):
            colour.call(recovery.with_retry(max_retries=0)(call))

        assert 1 == call.count

    def test_no_backoff(self, recovery, colour, clock):
        """A base of zero does not wait."""
        with pytest.raises(OSError):
            colour.call(recovery.with_retry(backoff_base=0)(colour.script(forever=OSError)))

        assert 0.0 == clock.now()

    def test_other_exceptions_pass(self, recovery, colour):
        """`exceptions` narrows what is retried."""
        call = colour.script(KeyError, "never")

        with pytest.raises(KeyError):
            colour.call(recovery.with_retry(exceptions=(ConnectionError, TimeoutError))(call))

        assert 1 == call.count

    def test_retries_are_counted_by_name(self, recovery, colour):
        """Calls that succeeded in the end included; a success does not reset it."""
        policy = recovery.with_retry(backoff_base=0, name="supplier")
        assert {"supplier": 0} == recovery.retry_counts

        colour.call(policy(colour.script(OSError, OSError, "done")))
        colour.call(policy(colour.script("done")))

        assert {"supplier": 2} == recovery.retry_counts

    def test_the_function_is_the_name_by_default(self, recovery, colour):
        """Its module and qualified name; known as soon as it is decorated."""

        def load() -> None: ...

        recovery.with_retry()(colour.function(load))

        assert {f"{__name__}.{load.__qualname__}": 0} == recovery.retry_counts


class TestCircuitBreakers:
    def test_opens_and_recovers(self, recovery, colour, clock):
        """After five failures, for sixty seconds, by default."""
        function = recovery.circuit_breaker(name="supplier")(colour.script(*[OSError] * 5, forever="done"))
        breaker = recovery.circuit_breakers["supplier"]

        for _ in range(5):
            assert CircuitState.CLOSED is breaker.state
            with pytest.raises(OSError):
                colour.call(function)
        with pytest.raises(CircuitOpenError) as caught:
            colour.call(function)
        assert ("supplier", 60.0) == (caught.value.policy, caught.value.retry_after)
        clock.advance(60)
        for _ in range(3):
            assert CircuitState.HALF_OPEN is breaker.state
            assert "done" == colour.call(function)

        assert CircuitState.CLOSED is breaker.state

    def test_one_name_is_one_breaker(self, recovery, colour):
        """Functions that call one dependency share its state."""
        failing = recovery.circuit_breaker(failure_threshold=1, name="supplier")(colour.script(OSError))
        other = recovery.circuit_breaker(failure_threshold=1, name="supplier")(colour.script("never"))

        with pytest.raises(OSError):
            colour.call(failing)

        with pytest.raises(CircuitOpenError):
            colour.call(other)
        assert ["supplier"] == list(recovery.circuit_breakers)

    def test_functions_without_a_name_have_their_own(self, recovery, colour):
        """The function's qualified name tells them apart."""

        def one() -> None:
            raise OSError

        def two() -> str:
            return "done"

        policy = recovery.circuit_breaker(failure_threshold=1)
        with pytest.raises(OSError):
            colour.call(policy(colour.function(one)))

        assert "done" == colour.call(policy(colour.function(two)))
        assert {f"{__name__}.{one.__qualname__}", f"{__name__}.{two.__qualname__}"} == set(
            recovery.circuit_breakers
        )

    def test_ignored_and_recorded_exceptions(self, recovery, colour):
        """The options of the policy."""
        policy = recovery.circuit_breaker(
            failure_threshold=1, name="supplier", ignore=ValueError, record=Exception
        )

        with pytest.raises(ValueError):
            colour.call(policy(colour.script(ValueError)))

        assert CircuitState.CLOSED is recovery.circuit_breakers["supplier"].state


class TestRegistry:
    @pytest.mark.parametrize("kind", ["with_retry", "circuit_breaker"])
    def test_one_name_with_other_options_is_an_error(self, recovery, kind):
        """At decoration; it names the policy and what differs. The same options are fine, in whatever form."""
        option = {"with_retry": "backoff_base", "circuit_breaker": "recovery_timeout"}[kind]
        make = getattr(recovery, kind)
        make(**{option: 5}, name="supplier")(scripted())

        make(**{option: timedelta(seconds=5)}, name="supplier")(scripted())
        with pytest.raises(ValueError, match=rf"'supplier' exists with {option}=5.0, not {option}=6.0; use"):
            make(**{option: 6}, name="supplier")(scripted())

    def test_both_kinds_may_bear_one_name(self, recovery):
        """A retry and a breaker of one dependency."""
        recovery.with_retry(name="supplier")(recovery.circuit_breaker(name="supplier")(scripted()))

        assert ["supplier"] == list(recovery.circuit_breakers) == list(recovery.retry_counts)

    def test_registries_know_nothing_of_each_other(self, recovery):
        """A name belongs to its registry."""
        ErrorRecoveryManager().circuit_breaker(failure_threshold=1, name="supplier")(scripted())

        recovery.circuit_breaker(failure_threshold=2, name="supplier")(scripted())

    def test_policies_cannot_be_replaced_from_outside(self, recovery):
        """What is handed out can be read only."""
        with pytest.raises(TypeError):
            recovery.circuit_breakers["supplier"] = None

    def test_statistics_are_plain(self, recovery, colour, clock):
        """Numbers and names, as pages and exporters want them."""
        function = recovery.with_retry(max_retries=1, backoff_base=0, name="retry")(
            recovery.circuit_breaker(failure_threshold=2, name="breaker")(colour.script(forever=OSError))
        )
        with pytest.raises(OSError):
            colour.call(function)

        stats = recovery.get_stats()

        assert {"retries", "circuit_breakers", "policies"} == set(stats)
        assert ["retry"] == list(stats["retries"])
        assert "open" in stats["circuit_breakers"]["breaker"].values()
        assert 1 in stats["retries"]["retry"].values()

    def test_the_two_together(self, recovery, colour, clock):
        """Retry around the breaker: once it is open there is no further attempt, and the real error is raised."""
        call = colour.script(forever=ConnectionError("refused"))
        function = recovery.with_retry(max_retries=9, backoff_base=0)(
            recovery.circuit_breaker(failure_threshold=3)(call)
        )

        with pytest.raises(ConnectionError, match="refused"):
            colour.call(function)
        assert 3 == call.count
        with pytest.raises(CircuitOpenError):
            colour.call(function)
        assert 3 == call.count


class TestArguments:
    @pytest.mark.parametrize(
        ("kind", "options", "error", "named"),
        [
            ("with_retry", {"max_retries": -1}, ValueError, "max_retries.*-1"),
            ("with_retry", {"max_retries": True}, TypeError, "max_retries.*True"),
            ("with_retry", {"max_retries": 2.5}, TypeError, "max_retries.*2.5"),
            ("with_retry", {"max_retries": "3"}, TypeError, "max_retries.*'3'"),
            ("with_retry", {"max_retries": None}, TypeError, "max_retries.*None"),
            ("with_retry", {"backoff_base": -1}, ValueError, "backoff_base.*-1"),
            ("with_retry", {"backoff_base": float("nan")}, ValueError, "backoff_base.*nan"),
            ("with_retry", {"backoff_base": True}, TypeError, "backoff_base.*True"),
            ("with_retry", {"backoff_base": "1"}, TypeError, "backoff_base.*'1'"),
            ("with_retry", {"exceptions": ()}, ValueError, "exceptions"),
            ("with_retry", {"exceptions": "OSError"}, TypeError, "exceptions.*'OSError'"),
            ("with_retry", {"exceptions": (OSError, 3)}, TypeError, "exceptions.*3"),
            ("with_retry", {"exceptions": (KeyboardInterrupt,)}, ValueError, "exceptions.*KeyboardInterrupt"),
            ("with_retry", {"name": ""}, ValueError, "name"),
            ("with_retry", {"name": 3}, TypeError, "name.*3"),
            ("circuit_breaker", {"failure_threshold": 0}, ValueError, "failure_threshold.*0"),
            ("circuit_breaker", {"failure_threshold": True}, TypeError, "failure_threshold.*True"),
            ("circuit_breaker", {"failure_threshold": None}, TypeError, "failure_threshold.*None"),
            ("circuit_breaker", {"failure_threshold": 2.5}, TypeError, "failure_threshold.*2.5"),
            ("circuit_breaker", {"recovery_timeout": 0}, ValueError, "recovery_timeout.*0"),
            ("circuit_breaker", {"recovery_timeout": -1}, ValueError, "recovery_timeout.*-1"),
            ("circuit_breaker", {"recovery_timeout": float("nan")}, ValueError, "recovery_timeout.*nan"),
            ("circuit_breaker", {"recovery_timeout": True}, TypeError, "recovery_timeout.*True"),
            ("circuit_breaker", {"probes": 0}, ValueError, "probes.*0"),
            ("circuit_breaker", {"ignore": 3}, TypeError, "ignore.*3"),
            ("circuit_breaker", {"record": ()}, ValueError, "record"),
            ("circuit_breaker", {"name": ""}, ValueError, "name"),
            ("circuit_breaker", {"name": 3}, TypeError, "name.*3"),
        ],
        ids=lambda case: (
            ",".join(f"{name}={value!r:.30}" for name, value in case.items())
            if isinstance(case, dict)
            else None
        ),
    )
    def test_are_checked_at_once(self, recovery, kind, options, error, named):
        """Before there is a function to decorate; the error names the argument, as this interface calls it."""
        with pytest.raises(error, match=named):
            getattr(recovery, kind)(**options)

    @pytest.mark.parametrize("kind", ["with_retry", "circuit_breaker"])
    def test_a_forgotten_call_is_told(self, recovery, kind):
        """`@recovery.with_retry` without parentheses does not decorate silently."""
        with pytest.raises(TypeError):
            getattr(recovery, kind)(lambda: None)
