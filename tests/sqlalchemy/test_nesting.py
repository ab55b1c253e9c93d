"""Nested units of work against a model of ten lines, in any shape that Hypothesis finds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from paintkit import ambient
from paintkit.errors import UnexpectedRollbackError
from paintkit.sqlalchemy import DatabaseConnectionManager
from paintkit.sqlalchemy.hooks import Ledger
from paintkit.sqlalchemy.units import UnitOfWork
from tests.sqlalchemy.house import Base, Paint


class Boom(Exception):
    """What fails inside."""


class Model:
    """What must be true: names wait in frames, a frame falls as a whole, a doomed one may not stand."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.frames: list[
            tuple[bool, list[str]]
        ] = []  # whether it is real (root or savepoint), and its names
        self.doomed: list[bool] = []

    def enter(self, real: bool) -> None:
        self.frames.append((real, []))
        self.doomed.append(False)

    def leave(self, failing: bool) -> bool:
        """Close the innermost frame; return whether an unexpected rollback has to be reported."""
        (real, names), doomed = self.frames.pop(), self.doomed.pop()
        if real and (failing or doomed):
            return not failing
        (self.frames[-1][1] if self.frames else self.stored).extend(names)
        if self.doomed:
            self.doomed[-1] |= failing or doomed
        return False


class Nesting(RuleBasedStateMachine):
    """Open, fill, close and break boundaries; after each root, rows and hooks are the model's."""

    db: DatabaseConnectionManager

    def __init__(self) -> None:
        super().__init__()
        with self.db.engine.begin() as connection:
            connection.execute(Paint.__table__.delete())
        self.model = Model()
        self.open: list[Any] = []
        self.hooks: list[str] = []
        self.number = 0

    @rule()
    @precondition(lambda self: len(self.open) < 6)
    def join(self) -> None:
        self._enter(self.db.unit_of_work(), real=not self.open)

    @rule()
    @precondition(lambda self: 0 < len(self.open) < 6)
    def nest(self) -> None:
        self._enter(self.db.unit_of_work(propagation="nested"), real=True)

    @rule()
    @precondition(lambda self: 0 < len(self.open) < 6)
    def begin_nested_by_hand(self) -> None:
        self._enter(self._savepoint(), real=None)

    @rule()
    @precondition(lambda self: self.open)
    def add(self) -> None:
        self.number += 1
        name = f"{self.number:03}"
        self.db.session.add(Paint(name=name))
        self.db.session.flush()
        self.db.on_commit(lambda: self.hooks.append(name))
        self.model.frames[-1][1].append(name)

    @rule()
    @precondition(lambda self: self.open)
    def succeed(self) -> None:
        self._leave(None)

    @rule()
    @precondition(lambda self: self.open)
    def fail(self) -> None:
        self._leave(Boom())

    @invariant()
    def doom_is_told(self) -> None:
        unit = ambient.unit_of_work.get()
        if unit is not None:
            assert self._doomed() == unit.is_doomed()

    @invariant()
    def rows_and_hooks_are_the_models(self) -> None:
        if not self.open:
            with self.db.engine.connect() as connection:
                rows = sorted(connection.execute(Paint.__table__.select()).scalars("name"))
            assert (self.model.stored, self.model.stored) == (rows, self.hooks)
            assert 0 == self.db.get_connection_stats()["checked_out"]

    def teardown(self) -> None:
        try:
            while self.open:
                self._leave(None)
            self.rows_and_hooks_are_the_models()
        finally:
            # A walk that has found something leaves nothing open for the next.
            for boundary, _ in reversed(self.open):
                with suppress(Exception):
                    boundary.__exit__(Boom, Boom(), None)

    def _doomed(self) -> bool:
        return any(self.model.doomed)

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        with self.db.session.begin_nested():
            yield

    def _enter(self, boundary: Any, real: bool | None) -> None:
        boundary.__enter__()
        self.open.append((boundary, real is None))
        self.model.enter(real is not False)

    def _leave(self, error: BaseException | None) -> None:
        boundary, by_hand = self.open.pop()
        if by_hand and error is None and self.model.doomed[-1]:
            # SQLAlchemy's own block does not know of dooms: it releases, and hands them on.
            names = self.model.frames.pop()[1]
            self.model.doomed.pop()
            self.model.frames[-1][1].extend(names)
            self.model.doomed[-1] = True
            expected = False
        else:
            expected = self.model.leave(error is not None)
        try:
            swallowed = boundary.__exit__(type(error) if error else None, error, None)
        except UnexpectedRollbackError:
            assert expected
        except Boom:
            assert by_hand, "a boundary never raises what it was given"
        else:
            assert not swallowed
            assert not expected


@contextmanager
def walks(db: DatabaseConnectionManager) -> Iterator[type[Nesting]]:
    """Make a machine over empty tables of one database."""
    Base.metadata.drop_all(db.engine)
    Base.metadata.create_all(db.engine)

    class Here(Nesting):
        pass

    Here.db = db
    try:
        yield Here
    finally:
        ambient.unit_of_work.set(None)
        db.close()


@pytest.mark.parametrize("url", ["sqlite-memory", "sqlite-file", "postgres"], indirect=True)
def test_nesting(url: str) -> None:
    """However units nest, fail, join and guard: a row is stored and its hook run exactly when the model says so."""
    with walks(DatabaseConnectionManager(url)) as machine:
        run_state_machine_as_test(
            machine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
        )


def walk(*steps: str) -> None:
    """Go one way, for a search finds a mistake only by chance, and look at what Hypothesis looks at."""
    with walks(impatient()) as machine:
        walker = machine()
        try:
            for step in steps:
                getattr(walker, step)()
                walker.doom_is_told()
                walker.rows_and_hooks_are_the_models()
        finally:
            walker.teardown()


def impatient() -> DatabaseConnectionManager:
    """Return a manager that does not wait for a lock which a broken unit of work holds for ever."""
    return DatabaseConnectionManager("sqlite://", engine_options={"connect_args": {"timeout": 0.0}})


def _close_promoting_everything(self: Ledger) -> None:
    """The obvious mistake: SQLAlchemy ends a savepoint before it tells of its rollback, so all hooks are promoted."""
    page = self._pages.pop()
    self._pages[-1].actions += page.actions


def _never_doom(self: UnitOfWork, cause: BaseException) -> None:
    """The guide's mistake in its last form: a swallowed failure of an inner boundary is forgotten."""


@pytest.mark.parametrize(
    ("owner", "name", "mutant", "steps"),
    [
        pytest.param(
            Ledger,
            "close",
            _close_promoting_everything,
            ["join", "nest", "add", "fail", "succeed"],
            id="hooks outlive their savepoint",
        ),
        pytest.param(
            UnitOfWork,
            "doom",
            _never_doom,
            ["join", "join", "add", "fail", "succeed"],
            id="swallowed failures are forgotten",
        ),
    ],
)
def test_the_model_catches_mutants(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, mutant: Callable[..., None], steps: list[str]
) -> None:
    """A walk that is right fails on a unit of work with a known mistake in it."""
    walk(*steps)
    monkeypatch.setattr(owner, name, mutant)
    with pytest.raises(AssertionError):
        walk(*steps)


def test_the_model_catches_python_own_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without our BEGIN a savepoint on SQLite survives the rollback around it, and the walk above sees it."""
    from paintkit.sqlalchemy import engines, manager

    assert manager.engines is engines
    steps = ["join", "nest", "add", "succeed", "fail"]
    walk(*steps)
    monkeypatch.setattr(engines, "take_begin_control", lambda engine: None)
    with pytest.raises(AssertionError):
        walk(*steps)
