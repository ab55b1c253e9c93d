"""The strategies: what they draw is valid, varied and can be repeated."""

from itertools import islice

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from paintkit import CircuitState, backoff
from paintkit.policies._circuit_breaker import CircuitBreaker
from paintkit.policies._retry import Retry
from paintkit.testing import FakeClock, scripted, strategies

# Some example will do, it need not be the smallest.
ANY = settings(phases=[Phase.generate], max_examples=1000, database=None)


@given(st.data())
def test_durations_keep_to_their_range(data):
    """Whole milliseconds between both ends, which are possible."""
    seconds = data.draw(strategies.durations(0.5, 2.0))

    assert 0.5 <= seconds <= 2.0
    assert seconds * 1000 == pytest.approx(round(seconds * 1000))


@pytest.mark.parametrize("end", [0.5, 2.0])
def test_durations_reach_both_ends(end):
    """The range includes its ends."""
    assert end == find(strategies.durations(0.5, 2.0), lambda seconds: seconds == end)


def test_durations_refuse_an_empty_range():
    """The error names both ends."""
    with pytest.raises(ValueError, match="shortest must not exceed longest"):
        strategies.durations(2.0, 1.0)


@given(strategies.backoffs(longest=60.0))
def test_backoffs_are_capped_by_the_longest(schedule):
    """No ceiling above what was asked for."""
    assert schedule.cap <= 60.0


@pytest.mark.parametrize(
    "shape",
    [
        lambda schedule: isinstance(schedule, backoff.Fibonacci),
        lambda schedule: (
            isinstance(schedule, backoff.Backoff) and schedule.factor == 1 and schedule.step == 0
        ),
        lambda schedule: isinstance(schedule, backoff.Backoff) and schedule.step > 0,
        lambda schedule: isinstance(schedule, backoff.Backoff) and schedule.factor > 1,
        lambda schedule: schedule.jitter == "full",
        lambda schedule: schedule.jitter == "equal",
        lambda schedule: schedule.jitter == "additive",
        lambda schedule: schedule.jitter == "none",
    ],
    ids=["fibonacci", "constant", "linear", "exponential", "full", "equal", "additive", "none"],
)
def test_backoffs_have_every_shape(shape):
    """Constant, linear, exponential; every kind of jitter."""
    assert find(strategies.backoffs(), shape, settings=ANY)


@given(strategies.backoffs(jitters=["none"]))
def test_backoffs_keep_to_the_jitters(schedule):
    """Only what was asked for is drawn."""
    assert "none" == schedule.jitter


@given(strategies.backoffs())
def test_backoffs_can_be_repeated(schedule):
    """Their randomness is seeded: the same state gives the same delays."""
    state = schedule.rng.getstate()
    first = list(islice(schedule.delays(), 5))
    schedule.rng.setstate(state)

    assert first == list(islice(schedule.delays(), 5))


@given(strategies.retries(OSError, most_attempts=4))
def test_retries_work(policy):
    """A drawn policy makes as many attempts as it may, and not more than was asked for."""
    call = scripted(forever=OSError)
    with FakeClock(), pytest.raises(OSError):
        policy.call(call)

    assert 1 <= call.count <= 4


@given(strategies.circuit_breakers())
def test_circuit_breakers_work(breaker):
    """A drawn breaker opens after at most six failures."""
    with FakeClock():
        for _ in range(6):
            if breaker.state is CircuitState.CLOSED:
                with pytest.raises(OSError):
                    breaker.call(scripted(OSError))

        assert CircuitState.OPEN is breaker.state


@pytest.mark.parametrize("kind", [Retry, CircuitBreaker])
def test_policies_are_of_every_kind(kind):
    """One strategy for all of them."""
    assert find(strategies.policies(), lambda policy: isinstance(policy, kind), settings=ANY)


@given(strategies.outages(horizon=100.0, most=2))
def test_outages_are_in_order_and_apart(outage):
    """Spans that last, one after the other, within the horizon."""
    instants = [instant for span in outage.spans for instant in span]

    assert sorted(set(instants)) == instants
    assert len(outage.spans) <= 2
    assert outage.ends <= 100.0


@pytest.mark.parametrize("spans", [0, 1, 3])
def test_outages_vary(spans):
    """None, one, several."""
    assert find(strategies.outages(), lambda outage: len(outage.spans) == spans, settings=ANY)


@given(strategies.call_histories(longest_gap=10.0, longest_call=2.0, most=5))
def test_call_histories_keep_to_their_limits(history):
    """Gaps, durations and length are bounded."""
    assert len(history) <= 5
    assert all(0 <= call.gap <= 10.0 and 0 <= call.takes <= 2.0 for call in history)


def test_call_histories_vary():
    """Successes and failures in one history."""
    history = find(strategies.call_histories(), lambda calls: {call.fails for call in calls} == {True, False})

    assert 2 == len(history)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: strategies.backoffs(longest=0), "longest"),
        (lambda: strategies.backoffs(longest=backoff.LONGEST_DELAY + 1), "longest"),
        (lambda: strategies.durations(-1), "shortest"),
        (lambda: strategies.retries(most_attempts=0), "most_attempts"),
        (lambda: strategies.outages(horizon=0), "horizon"),
        (lambda: strategies.outages(most=-1), "most"),
        (lambda: strategies.call_histories(most=-1), "most"),
    ],
    ids=["zero-cap", "cap-above-a-day", "negative", "no-attempt", "no-horizon", "outages", "calls"],
)
def test_arguments_are_checked(build, name):
    """At the call, not at the first example; the error names the argument."""
    with pytest.raises(ValueError, match=name):
        build()
