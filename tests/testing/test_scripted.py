"""Scripted callables: each call has the outcome that the script gives it, in both colours."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest

from paintkit import backoff, retry
from paintkit.testing import FakeClock, ascripted, scripted
from tests.colours import Colour


@pytest.fixture
def script(colour):
    return scripted if colour is Colour.BLOCKING else ascripted


def test_plays_outcomes_in_order(colour, script):
    """Values are returned, exceptions and their classes raised."""
    error = KeyError("first")
    call = script("a", error, OSError, None)

    assert "a" == colour.call(call)
    with pytest.raises(KeyError) as caught:
        colour.call(call)
    assert error is caught.value
    with pytest.raises(OSError):
        colour.call(call)
    assert colour.call(call) is None


def test_raises_what_is_no_exception(colour, script):
    """A keyboard interrupt is an outcome, too."""
    with pytest.raises(KeyboardInterrupt):
        colour.call(script(KeyboardInterrupt))


def test_goes_on_for_ever(colour, script):
    """With `forever` the script never ends."""
    call = script("a", forever="b")

    assert ["a", "b", "b"] == [colour.call(call) for _ in range(3)]


def test_ends(colour, script):
    """Without it a further call is an error that tells so."""
    call = script("a")
    colour.call(call)

    with pytest.raises(AssertionError, match="before call 2"):
        colour.call(call)


def test_keeps_account(colour, script):
    """Arguments and instants of all calls, those that raised included."""
    call = script(OSError, "a")
    with FakeClock() as clock:
        with pytest.raises(OSError):
            colour.call(call, 1, two=2)
        clock.advance(5)
        colour.call(call)

    assert 2 == call.count
    assert [((1,), {"two": 2}), ((), {})] == call.calls
    assert [0.0, 5.0] == call.times


def test_is_protected_like_any_callable(colour, script):
    """A policy sees its colour, and the script keeps the account, not the protected function."""
    call = script(OSError, "a")
    protected = retry(on=OSError, attempts=2, backoff=backoff.constant(0))(call)

    assert "a" == colour.call(protected)
    assert (colour is Colour.ASYNCIO) == inspect.iscoroutinefunction(protected)
    assert 2 == call.count
    assert not hasattr(protected, "calls")


def test_threads_share_it():
    """Each outcome is played once."""
    call = scripted(*range(1000))

    with ThreadPoolExecutor(8) as pool:
        played = list(pool.map(lambda _: call(), range(1000)))

    assert list(range(1000)) == sorted(played)
    assert 1000 == call.count
