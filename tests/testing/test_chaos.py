"""Chaos: what it does to calls, and that it can be repeated."""

import threading
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import find, given

from paintkit import backoff, circuit_breaker, pipeline, retry
from paintkit.testing import Blow, FakeClock, chaos, strategies
from tests.colours import Colour


def outcomes_of(storm, colour, calls=200):
    done = []

    def body(number):
        done.append(number)
        return number

    fn, said = storm(colour.function(body)), []
    for number in range(calls):
        try:
            said.append(colour.call(fn, number))
        except Exception as error:
            said.append(type(error))
    return said, done


def test_the_same_seed_does_the_same(colour):
    """In both colours; another seed does something else."""
    options = {"faults": {OSError: 0.2, KeyError: 0.1}, "outcomes": [("strange", 0.1)]}
    first, again, other = (outcomes_of(chaos(**options, seed=seed), colour)[0] for seed in (5, 5, 6))
    assert first == again == outcomes_of(chaos(**options, seed=5), Colour.BLOCKING)[0]
    assert first != other


def test_shares_are_kept(colour):
    """Of errors and of results; the function runs for the rest."""
    said, done = outcomes_of(
        chaos({OSError: 0.3, KeyError: 0.1}, outcomes=[(None, 0.2)], seed=1), colour, 500
    )
    assert 110 < said.count(OSError) < 190
    assert 25 < said.count(KeyError) < 75
    assert 65 < said.count(None) < 135
    assert [one for one in said if isinstance(one, int)] == done


def test_an_answer_can_be_lost(colour):
    """The function has done its work, and its caller hears of an error: what idempotency is for."""
    said, done = outcomes_of(chaos({OSError: 0.5}, lost=1.0, seed=1), colour, 100)
    assert list(range(100)) == done
    assert 30 < said.count(OSError) < 70


def test_no_chaos_changes_nothing(colour):
    """Nor does it hide the function's own error."""
    said, done = outcomes_of(chaos(seed=1), colour, 20)
    assert list(range(20)) == said == done

    def failing():
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        colour.call(chaos()(colour.function(failing)))


def test_calls_wait_on_paintkits_clock(colour):
    """A fixed time, or any in a range; no test sleeps."""
    with FakeClock() as clock:
        outcomes_of(chaos(latency=0.5, seed=1), colour, 4)
        assert pytest.approx(2.0) == clock.now()
        storm = chaos(latency=(1.0, 3.0), seed=1)
        outcomes_of(storm, colour, 50)
        delays = [blow.delay for blow in storm.blows]
        assert pytest.approx(sum(delays)) == clock.now() - 2.0
    assert 1.0 <= min(delays) < 1.5
    assert 2.5 < max(delays) <= 3.0


def test_what_happens_to_a_call_depends_on_its_number_alone():
    """Threads may come in any order: the n-th call to begin meets the n-th blow."""
    storm = chaos({OSError: 0.5}, outcomes=[(7, 0.2)], seed=3)
    start = threading.Barrier(4)

    def work():
        start.wait()
        return outcomes_of(storm, Colour.BLOCKING, 50)

    with ThreadPoolExecutor(4) as pool:
        said = [one for future in [pool.submit(work) for _ in range(4)] for one in future.result()[0]]
    planned = [storm.plan(number) for number in range(200)]
    assert planned == storm.blows
    assert sum(blow.fault is OSError for blow in planned) == said.count(OSError)


def test_the_seed_is_told_where_it_is_needed():
    """In the error itself, and in what leaves a block, once."""
    storm = chaos({OSError: 1.0}, seed=77)
    with pytest.raises(OSError, match="call 0 of chaos") as raised, storm:
        storm.call(len, "abc")
    assert ["this was chaos; chaos(..., seed=77) repeats it"] == raised.value.__notes__
    with pytest.raises(AssertionError) as failed, chaos() as drawn:
        raise AssertionError
    assert f"seed={drawn.seed}" in failed.value.__notes__[0]
    assert f"<chaos, seed={drawn.seed}>" == repr(drawn)
    assert chaos().seed != chaos().seed


def test_what_others_call_can_be_struck():
    """An attribute of a module or object is itself again after the block, also one that it inherits."""

    class Shop:
        def price(self):
            return 3

    shop, module = Shop(), types.SimpleNamespace(fetch=lambda: "page")
    fetch = module.fetch
    with chaos({OSError: 1.0}).patch(module, "fetch") as storm:
        with pytest.raises(OSError, match="call 0"):
            module.fetch()
        with storm.patch(shop, "price"), pytest.raises(OSError, match="call 1"):
            shop.price()
    assert (fetch, 3, {}) == (module.fetch, shop.price(), vars(shop))


def test_an_error_may_be_made_by_a_function():
    """For errors that want more than a message."""
    with pytest.raises(UnicodeDecodeError):
        chaos({lambda: UnicodeDecodeError("utf-8", b"", 0, 1, "no"): 1.0}).call(len, "abc")


def test_it_goes_inside_a_pipeline(colour):
    """As what is protected would: policies cannot tell it from the real thing."""
    storm = chaos({ConnectionError: 0.5}, seed=2)
    resilient = pipeline(
        retry(on=ConnectionError, attempts=30, backoff=backoff.constant(0)),
        circuit_breaker("supplier", failure_threshold=1000),
        storm,
    )
    fn = resilient(colour.function(lambda: "fine"))
    assert {"fine"} == {colour.call(fn) for _ in range(50)}
    assert len(storm.blows) > 70


@pytest.mark.parametrize(
    ("options", "kind", "named"),
    [
        ({"faults": {OSError: 1.5}}, ValueError, "faults"),
        ({"faults": {OSError: 0.7, KeyError: 0.7}}, ValueError, "1.4"),
        ({"faults": {OSError: 0.7}, "outcomes": [(1, 0.7)]}, ValueError, "together"),
        ({"faults": {OSError("down"): 0.1}}, TypeError, "exception classes"),
        ({"faults": {KeyboardInterrupt: 0.1}}, TypeError, "exception classes"),
        ({"faults": {int: 0.1}}, TypeError, "exception classes"),
        ({"faults": OSError}, TypeError, "faults must be errors with their shares"),
        ({"outcomes": [(1, "often")]}, TypeError, "outcomes"),
        ({"outcomes": [1]}, TypeError, r"outcomes\[0\] must be a result with its share"),
        ({"latency": -1}, ValueError, "latency"),
        ({"latency": (2.0, 1.0)}, ValueError, "shortest, longest"),
        ({"lost": 2}, ValueError, "lost"),
        ({"seed": "x"}, TypeError, "seed"),
    ],
)
def test_senseless_arguments_are_refused(options, kind, named):
    """The error names the argument."""
    with pytest.raises(kind, match=named):
        chaos(**options)


def test_what_hands_out_later_is_refused():
    """A generator function would run after the blow."""

    def generator():
        yield 1

    with pytest.raises(TypeError, match="generator"):
        chaos()(generator)


@given(strategies.chaoses(OSError, most_latency=2.0))
def test_the_strategy_draws_what_it_says(storm):
    """Delays within the range, and no other error."""
    for number in range(20):
        blow = storm.plan(number)
        assert 0.0 <= blow.delay <= 2.0
        assert blow.fault in {None, OSError}
        assert () == blow.outcomes


def test_the_strategy_finds_what_breaks():
    """A function without retries does not survive it, and the example found is small."""

    def breaks(storm):
        return any(storm.plan(number).fault for number in range(3))

    found = find(strategies.chaoses(), breaks)
    assert Blow(0.0, ConnectionError) == next(
        blow for blow in map(found.plan, range(3)) if blow.fault
    )._replace(lost=False)
