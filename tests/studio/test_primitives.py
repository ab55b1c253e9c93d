"""Every primitive does something that a user sees, and the check that says so notices when it does not.

`checks.py` holds the checks. Here each runs on the studio as it is, and on one where the primitive has been replaced by a
pass-through: calls go through it and it does nothing. On that one the check must fail.
"""

import functools
from contextlib import contextmanager

import pytest
from sqlalchemy.orm import Session

import studio.swatches.gallery
import studio.toolkit
from paintkit import ComponentManager, ErrorRecoveryManager, EventBus, PerformanceMonitor, RequestBatcher
from paintkit.cache.manager import CacheManager
from paintkit.sqlalchemy import DatabaseConnectionManager
from tests.studio.checks import CHECKS


class NoCache(CacheManager):
    """Keeps nothing."""

    def cache_result(self, *_args, **_options):
        return lambda fn: fn


class NoRetry(ErrorRecoveryManager):
    """Tries once; its retries stay on the list, never made."""

    def with_retry(self, *args, **options):
        super().with_retry(*args, **options)
        return lambda fn: fn


class NoBreaker(ErrorRecoveryManager):
    """Never opens; its breakers stay on the list, closed."""

    def circuit_breaker(self, *args, **options):
        super().circuit_breaker(*args, **options)
        return lambda fn: fn


class NoEvents(EventBus):
    """Delivers nothing."""

    def publish(self, event_type, data=None):
        pass


class NoBatcher(RequestBatcher):
    """Asks for each request alone."""

    def add(self, request):
        return self._process_batch([request])[0]


class NoComponents(ComponentManager):
    """Builds anew for everybody and keeps nothing."""

    def __init__(self):
        super().__init__()
        self._factories = {}

    def register(self, name, factory, *, close=None, replace=False):
        super().register(name, factory, close=close, replace=replace)
        self._factories[name] = factory

    def get(self, name, kind=object):
        return self._factories[name]()


class NoMonitor(PerformanceMonitor):
    """Measures nothing."""

    def measure(self, name, *given):
        return given[0]() if given else lambda fn: fn


class NoUnitOfWork(DatabaseConnectionManager):
    """Hands out a session whose every statement is stored at once."""

    _here = None

    @property
    def session(self):
        return self._here

    @contextmanager
    def unit_of_work(self, **_options):
        with Session(self.engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
            self._here = session
            yield session

    def with_database_session(self, fn=None, /, **_options):
        if fn is None:
            return self.with_database_session

        @functools.wraps(fn)
        def call(*args, **kwargs):
            with self.unit_of_work():
                return fn(*args, **kwargs)

        return call


PASS_THROUGH = {
    "cache": (studio.toolkit, "CacheManager", NoCache),
    "unit_of_work": (studio.toolkit, "DatabaseConnectionManager", NoUnitOfWork),
    "events": (studio.toolkit, "EventBus", NoEvents),
    "retry": (studio.toolkit, "ErrorRecoveryManager", NoRetry),
    "breaker": (studio.toolkit, "ErrorRecoveryManager", NoBreaker),
    "batcher": (studio.swatches.gallery, "RequestBatcher", NoBatcher),
    "components": (studio.toolkit, "ComponentManager", NoComponents),
    "monitor": (studio.toolkit, "PerformanceMonitor", NoMonitor),
}


@pytest.fixture(autouse=True)
def _long_patience(monkeypatch):
    """A batch waits until it is full: no check depends on how fast threads start."""
    monkeypatch.setattr(studio.swatches.gallery, "PATIENCE", 60.0)


@pytest.mark.parametrize("primitive", CHECKS)
def test_the_primitive_does_its_work(open_house, monkeypatch, primitive):
    """What a user sees of it is there."""
    CHECKS[primitive](open_house(), monkeypatch)


@pytest.mark.parametrize("primitive", CHECKS)
def test_a_pass_through_is_noticed(open_house, monkeypatch, primitive):
    """Without it, the same check fails, and on what it asserts."""
    monkeypatch.setattr(*PASS_THROUGH[primitive])
    house = open_house()
    with pytest.raises(AssertionError) as failure:
        CHECKS[primitive](house, monkeypatch)
    assert CHECKS[primitive].__name__ == failure.traceback[-1].name


def test_every_primitive_has_a_check():
    """None is forgotten."""
    assert list(CHECKS) == list(PASS_THROUGH)
