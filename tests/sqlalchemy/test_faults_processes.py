"""An engine that was used before a fork: parent and children each have connections of their own, in a real gunicorn, too."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import text

from paintkit import ambient
from paintkit.errors import NoUnitOfWorkError
from paintkit.sqlalchemy import DatabaseConnectionManager, registry
from tests.sqlalchemy import servers

WORKERS = 2

#: The application: used at import, so before gunicorn forks, then by every worker, and by the master when all is over.
APPLICATION = """
import json, os, time
from sqlalchemy import text
from paintkit.sqlalchemy import DatabaseConnectionManager
from paintkit.sqlalchemy import registry

db = DatabaseConnectionManager(os.environ["TARGET"])

@db.with_database_session
def who():
    return [os.getpid(), db.session.scalar(text("SELECT pg_backend_pid()"))]

FIRST = who()
if os.environ["MUTANT"] == "1":
    registry.managers.clear()  # nobody tells the children

def application(environ, start_response):
    # Each worker keeps its first request until all have one: so none of them answers in place of another.
    open(f"worker-{os.getpid()}", "w").close()
    while len([one for one in os.listdir() if one.startswith("worker-")]) < int(os.environ["WORKERS"]):
        time.sleep(0.01)
    body = json.dumps([who() for _ in range(3)]).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""

CONFIGURATION = """
import json

preload_app = True
workers = {workers}
bind = "127.0.0.1:{port}"
control_socket_disable = True
graceful_timeout = 5

def on_exit(server):
    import studio_fork
    print("MASTER", json.dumps([studio_fork.FIRST, studio_fork.who()]), flush=True)
"""


def workers_of(*, mutant: bool) -> int:
    return 1 if mutant else WORKERS


@contextmanager
def gunicorn(folder: Path, url: str, *, mutant: bool) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """Run the application with preloading."""
    port, workers = servers.spare_port(), workers_of(mutant=mutant)
    (folder / "studio_fork.py").write_text(APPLICATION)
    (folder / "settings.py").write_text(CONFIGURATION.format(workers=workers, port=port))
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", "settings.py", "studio_fork:application"],
        cwd=folder,
        env=os.environ
        | {
            "TARGET": url,
            "MUTANT": str(int(mutant)),
            "WORKERS": str(workers),
            "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield port, process
    finally:
        process.kill()
        process.wait()


def ask(port: int) -> list[list[int]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=servers.PATIENCE) as answer:
        return json.load(answer)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def faults(folder: Path, url: str, *, mutant: bool) -> list[str]:
    """Ask every worker, and then the master; return what is wrong with their connections."""
    seen: dict[int, set[int]] = {}
    with gunicorn(folder, url, mutant=mutant) as (port, process):
        servers.until(lambda: process.poll() is not None or listens(port))
        workers = workers_of(mutant=mutant)
        with ThreadPoolExecutor(workers) as clients:
            for worker, backend in chain.from_iterable(clients.map(ask, [port] * workers)):
                seen.setdefault(worker, set()).add(backend)
        process.send_signal(signal.SIGTERM)
        told, problems = process.communicate(timeout=servers.PATIENCE)
    assert workers == len(seen)
    lines = [line for line in told.splitlines() if line.startswith("MASTER")]
    if not lines:
        return [f"the master's connection is gone: {problems[-2000:]}"]
    before, after = json.loads(lines[0].removeprefix("MASTER "))
    found = [] if before == after else [f"the master had {before} and has {after}"]
    used = [backend for backends in seen.values() for backend in backends] + [before[1]]
    if len(used) != len(set(used)):
        found.append(f"processes share a connection of the server: {seen} and {before}")
    if any(len(backends) > 1 for backends in seen.values()):
        found.append(f"a worker lost its connection: {seen}")
    return found


def test_gunicorn_with_preloading(shared_postgres: str, tmp_path: Path) -> None:
    """Two workers and their master each have a connection of their own, and keep it; the master's outlives the workers."""
    assert [] == faults(tmp_path, shared_postgres, mutant=False)


def test_the_test_above_notices_a_shared_connection(shared_postgres: str, tmp_path: Path) -> None:
    """Without the hook at the fork a worker uses its master's connection: the mutant of the test above."""
    found = faults(tmp_path, shared_postgres, mutant=True)
    assert any("share a connection" in one or "master's connection is gone" in one for one in found)


def in_child(work: Callable[[], object]) -> object:
    """Fork, and return what the child's work returned, or the name of its error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = work()
        except BaseException as error:
            told = type(error).__name__
        os.write(writing, json.dumps(told).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        told = json.load(answer)
    os.waitpid(child, 0)
    return told


WHO = text("SELECT pg_backend_pid()")

forking = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def backend_of_child(url: str) -> tuple[object, object]:
    """Fork inside a unit of work; return the server's processes for the parent's unit and for a unit in the child."""
    db = DatabaseConnectionManager(url)

    def work() -> object:
        with db.unit_of_work() as session:
            return session.scalar(WHO)

    with db.unit_of_work() as session:
        mine, childs = session.scalar(WHO), in_child(work)
        assert mine == session.scalar(WHO)
    db.close()
    return mine, childs


@forking
def test_a_child_is_outside_of_its_parents_unit(shared_postgres: str) -> None:
    """Who is forked inside a unit of work is outside of it: a unit there has a connection of its own."""
    mine, childs = backend_of_child(shared_postgres)
    assert isinstance(childs, int)
    assert mine != childs


@forking
def test_the_test_above_notices_a_child_that_joins(
    shared_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If nobody tells the child, it speaks on its parent's connection: the mutant of the test above."""
    monkeypatch.setattr(DatabaseConnectionManager, "leave_pool_to_parent", lambda _: None)
    mine, childs = backend_of_child(shared_postgres)
    assert mine == childs


@forking
def test_a_child_cannot_end_its_parents_unit(shared_postgres: str) -> None:
    """A child that runs on into the end of the unit, or of its savepoint, is refused; the parent ends it in peace."""
    db = DatabaseConnectionManager(shared_postgres)
    outer, inner = db.unit_of_work(), db.unit_of_work(propagation="nested")
    session = outer.__enter__()
    inner.__enter__()
    session.execute(text("CREATE TEMPORARY TABLE forked (id int)"))

    def end() -> None:
        inner.__exit__(None, None, None)
        outer.__exit__(None, None, None)

    assert NoUnitOfWorkError.__name__ == in_child(end)
    assert NoUnitOfWorkError.__name__ == in_child(lambda: session.scalar(WHO))
    end()
    with db.unit_of_work() as session:
        assert 0 == session.scalar(text("SELECT count(*) FROM forked"))
    assert ambient.unit_of_work.get() is None
    db.close()


@forking
def test_a_child_reads_in_a_session_of_its_own(shared_postgres: str) -> None:
    """In an app context that it inherits, too, a child has a read session and a connection of its own."""
    app = Flask("studio")
    app.config["SQLALCHEMY_DATABASE_URI"] = shared_postgres
    db = DatabaseConnectionManager(app)
    assert db in registry.managers
    with app.app_context():
        mine, childs = db.session.scalar(WHO), in_child(lambda: db.session.scalar(WHO))
        assert mine == db.session.scalar(WHO)
        assert isinstance(childs, int)
        assert mine != childs
    db.close()
