"""The checker of histories knows a violation when it sees one."""

import pytest

from tests.redis.history import violations


def put(process, value, ended):
    return {
        "did": "put",
        "name": "red",
        "process": process,
        "value": value,
        "began": ended - 0.1,
        "ended": ended,
    }


def get(process, value, began):
    return {
        "did": "get",
        "name": "red",
        "process": process,
        "value": value,
        "began": began,
        "ended": began + 0.1,
    }


@pytest.mark.parametrize(
    ("read", "violated"),
    [
        (get(0, 1, 5.1), False),
        (get(0, 0, 5.1), True),  # its own word, P1
        (get(0, 0, 4.95), False),  # it began before the invalidation returned
        (get(1, 0, 5.5), False),  # another process, within the lag
        (get(1, 0, 6.1), True),  # and after it, P2
        (get(1, 2, 6.1), False),
    ],
)
def test_a_read_that_is_too_old_is_found(read, violated):
    """By who wrote, and when."""
    assert bool(violations([put(0, 1, 5.0), read], lag=1.0)) == violated


def test_names_are_apart():
    """A write of another name says nothing."""
    assert violations([put(0, 1, 5.0) | {"name": "blue"}, get(0, 0, 9.0)], lag=1.0) == []
