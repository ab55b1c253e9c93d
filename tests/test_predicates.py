"""Predicates over exceptions."""

import pytest

from paintkit import caused_by, retry


def raised(error, *, cause=None, context=None, hidden=False):
    """An error as `raise … from …` leaves it."""
    error.__cause__, error.__context__ = cause, context
    error.__suppress_context__ = hidden
    return error


@pytest.mark.parametrize(
    ("error", "matches"),
    [
        (ConnectionResetError(), True),
        (ValueError(), False),
        (raised(RuntimeError(), cause=ConnectionError()), True),
        (raised(RuntimeError(), cause=raised(ValueError(), cause=ConnectionError())), True),
        (raised(RuntimeError(), context=ConnectionError()), True),
        (raised(RuntimeError(), context=ConnectionError(), hidden=True), False),
        (raised(RuntimeError(), cause=KeyboardInterrupt()), False),
    ],
)
def test_the_chain(error, matches):
    """The error itself, its causes, and the context that was not hidden."""
    assert matches == caused_by(ConnectionError)(error)


def test_a_circle_ends():
    """A chain that comes back to itself is walked once."""
    first, second = RuntimeError(), ValueError()
    first.__cause__, second.__cause__ = second, first

    assert not caused_by(ConnectionError)(first)


def test_it_works_in_a_policy():
    """A wrapped connection error is retried."""
    calls = []

    def load():
        calls.append(None)
        try:
            raise ConnectionError
        except ConnectionError as error:
            raise RuntimeError from error

    with pytest.raises(RuntimeError):
        retry(on=caused_by(ConnectionError), attempts=2, backoff=NoWait()).call(load)
    assert 2 == len(calls)


class NoWait:
    """A schedule of one's own."""

    def delays(self):
        """Yield no wait at all."""
        return iter([0.0])


@pytest.mark.parametrize(
    ("types", "error"), [((), ValueError), ((3,), TypeError), ((KeyboardInterrupt,), ValueError)]
)
def test_bad_types_are_refused(types, error):
    """When the predicate is made."""
    with pytest.raises(error, match="types"):
        caused_by(*types)
