"""A Redis server of a test's own, which can be stopped, hung and started again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests import services

# Seconds; what a healthy server never needs, however busy the machine is.
PATIENCE = 30.0


class Server:
    """One redis-server process on a spare port of the loopback, without anything on disk."""

    def __init__(self, program, folder):
        self._program = program
        self._folder = folder
        self._hold = _hold_a_port()
        self.port = self._hold.getsockname()[1]
        self._process = None

    @property
    def url(self):
        """Where clients find it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, snapshot=None):
        """Start it, empty or with the data of a snapshot, and wait until it answers."""
        (Path(self._folder) / "dump.rdb").unlink(missing_ok=True)
        if snapshot is not None:
            (Path(self._folder) / "dump.rdb").write_bytes(snapshot)
        command = [
            self._program,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self._process = subprocess.Popen(
            command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self.answers)

    def kill(self):
        """End it without a farewell."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self):
        """End it, and let others have its port."""
        self.kill()
        self._hold.close()

    def hang(self):
        """Let it accept and say nothing, from now on: a signal takes its time."""
        stop(self._process)

    def wake(self):
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def snapshot(self):
        """Return its data at this moment."""
        with redis.Redis(port=self.port) as client:
            client.save()
        return (Path(self._folder) / "dump.rdb").read_bytes()

    def answers(self):
        """Whether it answers now."""
        try:
            with redis.Redis(port=self.port, socket_timeout=1) as client:
                return client.ping()
        except redis.RedisError:
            return False


def _hold_a_port():
    """Return a spare port that nobody else is given, also while its server is away.

    Linux lets a server that sets SO_REUSEADDR, as Redis does, listen beside a socket that only has the port.
    """
    hold = socket.socket()
    hold.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    hold.bind(("127.0.0.1", 0))
    return hold


def stop(process):
    """Stop a child, and wait until it stands."""
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)


def until(condition, seconds=PATIENCE):
    """Wait, really, until something holds; how long it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not within {seconds} s: {condition}")
        time.sleep(0.01)
    return time.monotonic() - started


@pytest.fixture
def own_redis(tmp_path) -> Iterator[Server]:
    """A running server of this test's own."""
    program = shutil.which("redis-server")
    if program is None:
        services.place("redis")  # fails where Redis is required
        pytest.skip("no program redis-server")
    server = Server(program, tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.close()
