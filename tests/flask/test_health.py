"""Readiness: what is asked, what the answers mean, and that no answer is one, too."""

import logging
import threading

import pytest
from flask import current_app

from paintkit import ErrorRecoveryManager, clock
from paintkit.flask import PaintKit
from paintkit.sqlalchemy import DatabaseConnectionManager
from paintkit.testing import FakeClock


def ready(app):
    response = app.test_client().get("/health/ready")
    assert "no-store" == response.headers["Cache-Control"]
    return response.status_code, response.json


def fail():
    raise OSError("the disk at 10.0.0.7 is gone")


def test_a_database_that_answers_makes_an_app_ready(app, db):
    """All is well: 200."""
    PaintKit(app, db=db, checks={"store": lambda: None})
    assert (
        200,
        {"status": "ok", "databases": {"db": "ok"}, "checks": {"store": "ok"}, "circuit_breakers": {}},
    ) == ready(app)


def test_without_its_database_an_app_is_not_ready(app, tmp_path, caplog):
    """503; why is in the log, not in the answer."""
    db = DatabaseConnectionManager(f"sqlite:///{tmp_path}/missing/studio.db")
    PaintKit(app, db=db, checks={"store": lambda: None})
    status, report = ready(app)
    assert (503, "unavailable", {"db": "unavailable"}) == (status, report["status"], report["databases"])
    assert "unable to open" not in str(report)
    assert "unable to open" in caplog.text
    db.close()


def test_a_database_comes_back(app, tmp_path):
    """Each request asks anew."""
    db = DatabaseConnectionManager(f"sqlite:///{tmp_path}/later/studio.db")
    PaintKit(app, db=db)
    assert 503 == ready(app)[0]
    (tmp_path / "later").mkdir()
    assert 200 == ready(app)[0]
    db.close()


def test_what_an_app_can_do_without_degrades_it(app, db, caplog):
    """A failing check: 200, so that it stays in service, and a word about it."""
    PaintKit(app, db=db, checks={"store": fail})
    status, report = ready(app)
    assert (200, "degraded", {"store": "degraded"}) == (status, report["status"], report["checks"])
    assert "10.0.0.7" not in str(report)
    assert "10.0.0.7" in caplog.text


def test_an_open_circuit_degrades_until_it_closes(app):
    """A breaker that refuses calls is named."""
    recovery = ErrorRecoveryManager()
    PaintKit(app, recovery=recovery)

    @recovery.circuit_breaker(1, 60, name="supplier", probes=1)
    def order(works):
        if not works:
            raise OSError

    with FakeClock() as fake:
        order(works=True)
        assert "ok" == ready(app)[1]["status"]
        with pytest.raises(OSError):
            order(works=False)
        assert ("degraded", {"supplier": "degraded"}) == tuple(
            ready(app)[1][key] for key in ("status", "circuit_breakers")
        )
        fake.advance(60)
        order(works=True)
        assert "ok" == ready(app)[1]["status"]


def test_a_check_runs_in_an_app_context(app):
    """It may use what a request uses."""
    names = []
    PaintKit(app, checks={"store": lambda: names.append(current_app.name)})
    ready(app)
    assert ["studio"] == names


class _Silent:
    """A database that does not answer until it is released."""

    def __init__(self):
        self.begun, self.release = threading.Event(), threading.Event()
        self.asked = 0

    def init_app(self, app):
        pass

    def get_connection_stats(self):
        return {}

    def check(self):
        self.asked += 1
        self.begun.set()
        self.release.wait()
        return []


def test_no_answer_in_time_means_no(app, monkeypatch, caplog):
    """The wait is bounded, and a question that is still open is not asked again."""
    silent, waited = _Silent(), []

    def out_of_time(condition, timeout):
        assert silent.begun.wait(60)  # first the question comes, however busy the machine is
        waited.append(timeout)
        now = clock.now() + timeout
        monkeypatch.setattr(clock, "now", lambda: now)
        return False

    app.config["PAINTKIT_READY_TIMEOUT"] = 2.5
    PaintKit(app, db=silent, checks={"store": lambda: None})
    monkeypatch.setattr(clock, "wait", out_of_time)
    with caplog.at_level(logging.WARNING, "paintkit.flask"):
        assert 503 == ready(app)[0]
        assert 503 == ready(app)[0]
    assert max(waited) <= 2.5
    assert "db does not answer in time" in caplog.text
    silent.release.set()
    for thread in threading.enumerate():
        if thread.name == "paintkit asks db":
            thread.join(60)
    assert 1 == silent.asked


def test_all_are_asked_at_once(app):
    """Two slow answers take the time of one."""
    both = threading.Barrier(2, timeout=30)
    PaintKit(app, checks={"store": both.wait, "mail": both.wait})
    assert {"store": "ok", "mail": "ok"} == ready(app)[1]["checks"]


def test_a_check_that_exits_has_failed(app):
    """Whatever a check raises ends its question."""

    def leave():
        raise SystemExit

    PaintKit(app, checks={"store": leave})
    assert {"store": "degraded"} == ready(app)[1]["checks"]
    assert {"store": "degraded"} == ready(app)[1]["checks"]
