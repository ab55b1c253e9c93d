"""What a simulated outage tells of a policy."""

import pytest

from paintkit import backoff, circuit_breaker, retry
from paintkit.testing import Outage, simulate

DOWN_FOR_30 = Outage(((10.0, 40.0),))


def test_without_trouble_every_request_is_one_call():
    """No outage, no amplification, nothing to recover from."""
    result = simulate(lambda: retry(on=ConnectionError), Outage(()), duration=20.0)

    assert result.requests == result.calls == result.succeeded
    assert 1.0 == result.amplification
    assert 0.0 == result.recovery_time


def test_retries_amplify_an_outage():
    """Four attempts come close to four calls per request while everything fails."""
    four = retry_at_once(4)
    result = simulate(four, DOWN_FOR_30, duration=40.0)

    outage = result.seconds[12:38]
    assert 3.9 < sum(second.calls for second in outage) / sum(second.requests for second in outage) < 4.1


def test_a_breaker_keeps_the_load_off():
    """The dependency sees a few calls, and the clients hear at once."""
    result = simulate(lambda: circuit_breaker(failure_threshold=5), DOWN_FOR_30)

    assert sum(second.calls for second in result.seconds[12:38]) <= 3
    assert result.rejected > 500
    assert result.recovery_time < 35.0


def test_the_sum_of_its_parts():
    """Every request ends in one way, and every second is accounted for."""
    result = simulate(lambda: retry(on=ConnectionError), DOWN_FOR_30)

    assert result.requests == result.succeeded + result.failed + result.rejected
    assert result.requests == sum(second.requests for second in result.seconds)
    assert result.calls == sum(second.calls for second in result.seconds)
    assert result.p50 <= result.p95 <= result.p99 <= result.slowest


def test_the_same_seed_gives_the_same_result():
    """A simulation can be repeated, and another seed gives another one."""
    first, again, other = (simulate(retry_at_once(3), DOWN_FOR_30, seed=seed) for seed in (3, 3, 4))

    assert first == again
    assert first != other


def test_the_table_names_what_matters():
    """For people who read it in a terminal."""
    table = str(simulate(retry_at_once(2), DOWN_FOR_30))

    assert ["requests", "calls", "duration", "recovery"] == [line.split()[0] for line in table.splitlines()]


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_plot_is_written(tmp_path, ending):
    """In the format that the ending names."""
    pytest.importorskip("matplotlib")
    target = tmp_path / f"outage.{ending}"

    simulate(retry_at_once(2), DOWN_FOR_30, duration=20.0).plot(target, title="two attempts")

    assert target.read_bytes().startswith(b"<?xml" if ending == "svg" else b"\x89PNG")


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("rate", 0, ValueError),
        ("rate", True, TypeError),
        ("duration", -1, ValueError),
        ("seed", 0.5, TypeError),
    ],
)
def test_bad_arguments_are_named(argument, value, error):
    """Before anything runs."""
    with pytest.raises(error, match=argument):
        simulate(retry_at_once(2), DOWN_FOR_30, **{argument: value})


def retry_at_once(attempts):
    """Make a policy that retries without waiting, so that only attempts count."""
    return lambda: retry(on=ConnectionError, attempts=attempts, backoff=backoff.constant(0))
