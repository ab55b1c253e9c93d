"""Servers of a test's own on spare ports, which it may hang, kill and start again; they end by their process."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import URL, make_url

from tests import services

# Seconds; what a healthy server never needs.
PATIENCE = 20.0


def spare_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as spare:
        spare.bind(("127.0.0.1", 0))
        return spare.getsockname()[1]


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> float:
    """Wait, really, until something holds; return how long it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not within {seconds} s: {condition}")
        time.sleep(0.01)
    return time.monotonic() - started


def as_postgres(command: Sequence[str]) -> list[str]:
    """Return a command that runs as the user `postgres` if we are root: these servers refuse to be."""
    if os.geteuid() != 0:
        return list(command)
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command]


def own_folder(folder: Path) -> Path:
    """Return a folder that the servers' user owns; pytest's own are closed to others."""
    folder.mkdir(parents=True)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        for parent in folder.parents:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o001)
    return folder


class Postgres:
    """A PostgreSQL cluster without safety nets: nothing is synced.

    Args:
        folder: Where its data goes; does not exist yet.
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
        self._folder = own_folder(folder)
        self._log = folder.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self._run(
            "initdb",
            "--username=postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
            str(folder),
        )
        with (folder / "pg_hba.conf").open("a") as rules:
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
            str(self._folder),
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
        ((victim,),) = self.ask(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            " ORDER BY state = 'active' DESC LIMIT 1"
        )
        os.kill(int(str(victim)), signal.SIGKILL)

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
            connect_timeout=3,
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
def postgres(folder: Path, **options: object) -> Iterator[Postgres]:
    """Run a server of one's own."""
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
def pgbouncer(program: str, folder: Path, server: URL) -> Iterator[URL]:
    """Run PgBouncer in transaction mode, with two connections to the server for all."""
    port = spare_port()
    own_folder(folder)
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
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            as_postgres([program, str(folder / "pgbouncer.ini")]), stdout=log, stderr=log
        )

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answers)
        yield server.set(host="127.0.0.1", port=port)
    finally:
        process.send_signal(signal.SIGQUIT)  # immediate
        process.wait(PATIENCE)
