"""Servers of a test's own on spare ports, which it may hang, kill and start again; they end by their process."""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import URL, make_url

from tests import services

# Seconds; what a healthy server never needs, however busy its machine is.
PATIENCE = 60.0

# Below those that systems lend to whoever connects: one of these could be lent before a server takes it, or while it restarts.
_PORTS = range(15_000, 32_000)


def spare_port() -> int:
    """Return a port on which nobody listens, and which nobody else is given here while this process lives."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket(type=socket.SOCK_DGRAM) as sign, socket.socket() as spare:
            try:
                sign.bind(("127.0.0.1", port))  # says to the other processes that the port of TCP is taken
                spare.bind(("127.0.0.1", port))
            except OSError:
                continue
            sign.detach()  # it stands until this process ends
            return port


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> float:
    """Wait, really, until something holds; return how long it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not within {seconds} s: {condition}")
        time.sleep(0.01)
    return time.monotonic() - started


def _is_there(process: int) -> bool:
    """Whether a process is there, or has not been missed by its parent yet."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def as_postgres(command: Sequence[str]) -> list[str]:
    """Return a command that runs as the user `postgres` if we are root: these servers refuse to be."""
    if os.geteuid() != 0:
        return list(command)
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command]


@contextmanager
def own_folder(user: str = "postgres") -> Iterator[Path]:
    """Make a folder that the servers' user owns; not one of pytest's, which each new run closes to others again."""
    folder = Path(tempfile.mkdtemp(prefix="paintkit-"))
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Postgres:
    """A PostgreSQL cluster without safety nets: nothing is synced.

    Args:
        folder: Where its data goes.
        host: The address it listens on.
        inside: What its commands begin with, to run it in another network.
        settings: Further settings of the server.
    """

    def __init__(
        self, folder: Path, *, host: str = "127.0.0.1", inside: Sequence[str] = (), **settings: object
    ) -> None:
        self.host, self.port = host, spare_port()
        self._bin = _postgres_programs()
        self._inside = list(inside)
        self._settings = {"fsync": "off", "max_connections": 50, "listen_addresses": host} | settings
        self._folder, self._data, self._log = folder, str(folder / "data"), folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._run(
            "initdb",
            "--username=postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
            self._data,
        )
        with (folder / "data/pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\n")

    @property
    def url(self) -> URL:
        """Where clients find it."""
        return make_url(f"postgresql+psycopg://postgres@{self.host}:{self.port}/postgres")

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = [f"-c{name}={value}" for name, value in self._settings.items()]
        command = [
            str(self._bin / "postgres"),
            "-D",
            self._data,
            "-p",
            str(self.port),
            "-k",
            str(self._folder),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._inside, *as_postgres([*command, *settings])], cwd=self._folder, stdout=log, stderr=log
            )
        until(self.answers)

    def stop(self) -> None:
        """Shut it down at once; its clients' connections end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # immediate: no checkpoint
            self._process.wait(PATIENCE)
            self._process = None

    def kill_backend(self) -> None:
        """Kill a process that serves a client, one at work if there is any: the whole cluster starts anew."""
        victims: list[int] = []

        def found() -> bool:
            try:
                rows = self.ask(
                    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                    " ORDER BY state = 'active' DESC LIMIT 1"
                )
            except psycopg.OperationalError:
                return False  # it has not started anew yet
            victims.extend(int(str(pid)) for (pid,) in rows)
            return bool(victims)

        until(found)
        os.kill(victims[0], signal.SIGKILL)
        until(lambda: not _is_there(victims[0]))  # so that the server knows, before anybody goes on

    def answers(self) -> bool:
        """Whether it answers now."""
        try:
            self.ask("SELECT 1")
        except psycopg.OperationalError:
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()
            return False
        return True

    def ask(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Ask it by a connection of its own, in autocommit."""
        url = self.url
        with psycopg.connect(
            host=url.host,
            port=url.port,
            user="postgres",
            dbname="postgres",
            autocommit=True,
            connect_timeout=int(PATIENCE),
        ) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            as_postgres([str(self._bin / program), *arguments]),
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def postgres(**options: object) -> Iterator[Postgres]:
    """Run a server of one's own."""
    _postgres_programs()
    with own_folder() as folder:
        server = Postgres(folder, **options)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _postgres_programs() -> Path:
    """Return the folder of initdb and postgres, or skip the test; fail it where PostgreSQL is required."""
    found = shutil.which("initdb") or max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
    known = os.geteuid() != 0 or "postgres" in {one.pw_name for one in pwd.getpwall()}
    if found is None or not known:
        services.absent("postgres", "no programs to start a PostgreSQL server of our own")
    return Path(found).parent


@contextmanager
def mariadb(*, host: str, inside: Sequence[str] = ()) -> Iterator[URL]:
    """Run a MariaDB server that lets everybody in.

    Args:
        host: The address it listens on.
        inside: What its command begins with, to run it in another network.
    """
    with own_folder("mysql") as folder:
        port, user = spare_port(), [] if os.geteuid() != 0 else ["--user=mysql"]
        data = ["--no-defaults", f"--datadir={folder / 'data'}", *user]
        subprocess.run(["mariadb-install-db", *data, "--skip-test-db"], check=True, capture_output=True)
        options = ["--skip-grant-tables", "--skip-networking=0", f"--bind-address={host}", f"--port={port}"]
        places = [f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
        with _running([*inside, "mariadbd", *data, *options, *places], folder / "log", host, port):
            yield make_url(f"mysql+pymysql://root@{host}:{port}/mysql")


@contextmanager
def pgbouncer(program: str, server: URL) -> Iterator[URL]:
    """Run PgBouncer in transaction mode, with two connections to the server for all."""
    port = spare_port()
    with own_folder() as folder:
        (folder / "users.txt").write_text(f'"{server.username}" "{server.password or ""}"\n')
        (folder / "pgbouncer.ini").write_text(
            f"""[databases]
{server.database} = host={server.host} port={server.port} user={server.username}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder / "users.txt"}
pool_mode = transaction
default_pool_size = 2
"""
        )
        command = as_postgres([program, str(folder / "pgbouncer.ini")])
        with _running(command, folder / "log", "127.0.0.1", port):
            yield server.set(host="127.0.0.1", port=port)


@contextmanager
def _running(command: Sequence[str], log: Path, host: str, port: int) -> Iterator[None]:
    """Run a program until it listens, for a block, and end it."""
    with log.open("wb") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex((host, port)) == 0

    try:
        until(answers)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)
