"""`/metrics` behind a server with several processes: the sum over them, with real gunicorn."""

import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from paintkit import PerformanceMonitor
from paintkit.flask import PaintKit
from paintkit.monitor.gathering import gather
from paintkit.monitor.workers import Workers

ROOT = Path(__file__).parents[2]

# Seconds; what a healthy server never needs. A request that was given up may still be served, and then counts.
PATIENCE = 60.0

APP = """
import os
from flask import Flask
from paintkit import PerformanceMonitor
from paintkit.flask import PaintKit

app = Flask("studio")
app.config.update(
    PAINTKIT_METRICS_PUBLIC=True, PAINTKIT_METRICS_DIR=os.environ["NUMBERS"], PAINTKIT_METRICS_INTERVAL=0.05
)
monitor = PerformanceMonitor()
PaintKit(app, monitor=monitor)


@app.get("/mix")
def mix():
    monitor.record("mix", 0.25)
    return str(os.getpid())
"""


class Server:
    """gunicorn with two workers, each of which serves one connection at a time."""

    def __init__(self, folder, *options):
        self.folder = folder / "numbers"
        (folder / "served.py").write_text(APP)
        path = os.pathsep.join([str(folder), str(ROOT / "src")])
        with socket.create_server(
            ("127.0.0.1", 0)
        ) as listener:  # handed over, so that nobody takes the port meanwhile
            self.port = listener.getsockname()[1]
            command = [
                "-m",
                "gunicorn",
                "--workers=2",
                f"--bind=fd://{listener.fileno()}",
                "--log-level=warning",
            ]
            self.process = subprocess.Popen(
                [sys.executable, *command, *options, "served:app"],
                cwd=folder,
                env=os.environ | {"NUMBERS": str(self.folder), "PYTHONPATH": path},
                pass_fds=[listener.fileno()],
            )

    def get(self, path):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def wait(self, condition):
        """Wait until a question is answered with yes."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            try:
                if condition():
                    return
            except (OSError, HTTPException):
                assert self.process.poll() is None
            time.sleep(0.02)
        raise AssertionError("it never came to pass")

    def numbers(self):
        """Return how many workers tell, and how many paints were mixed."""
        found = {
            sample.name: sample.value
            for family in text_string_to_metric_families(self.get("/metrics"))
            for sample in family.samples
        }
        return found["paintkit_workers"], found.get("paintkit_duration_seconds_count", 0)

    def written(self):
        """Return how many mixed paints stand in the folder: those that nobody loses any more."""
        found = {metric.name: metric.samples for metric in gather([Workers(self.folder)])}
        return sum(sample.value["count"] for sample in found.get("paintkit.duration", ()))

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


@pytest.fixture(params=[(), ("--preload",)], ids=["plain", "preload"])
def server(request, tmp_path):
    server = Server(tmp_path, *request.param)
    yield server
    server.stop()


def test_metrics_are_the_sum_over_the_workers(server):
    """Whichever answers; and what a worker counted stays when it is replaced."""
    server.wait(lambda: server.get("/mix"))
    mixed, workers = 1, set()
    while len(workers) < 2 or mixed < 20:
        workers.add(int(server.get("/mix")))
        mixed += 1
    server.wait(lambda: server.numbers() == (2, mixed))
    for end in (signal.SIGTERM, signal.SIGKILL):
        # Who is killed loses what it has not written.
        server.wait(lambda mixed=mixed: server.written() == mixed)
        os.kill(workers.pop(), end)
        server.wait(lambda: server.get("/mix"))
        mixed += 1
        server.wait(lambda mixed=mixed: server.numbers()[1] == mixed)


@pytest.mark.parametrize(("value", "kind"), [("soon", TypeError), (0, ValueError)])
def test_a_wrong_interval_is_told_at_once(value, kind):
    """Of the entry's name."""
    app = Flask("studio")
    app.config["PAINTKIT_METRICS_INTERVAL"] = value
    with pytest.raises(kind, match="PAINTKIT_METRICS_INTERVAL"):
        PaintKit(app, monitor=PerformanceMonitor())
