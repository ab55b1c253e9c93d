"""The commands for an outbox: what waits, what was given up, and the relay of a deployment."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from flask import Flask, current_app

from paintkit import EventBus, backoff
from paintkit.flask import PaintKit
from paintkit.redis import RedisStreams
from paintkit.sqlalchemy import DatabaseConnectionManager, Outbox
from tests.flask.test_cli import run
from tests.redis.conftest import until


class Shop:
    """An app with a bus whose outbox is in a file."""

    def __init__(self, path, asynchronous):
        driver = "sqlite+aiosqlite" if asynchronous else "sqlite"
        self.app = Flask("shop")
        self.db = DatabaseConnectionManager(f"{driver}:///{path}")
        self.outbox = Outbox(self.db, max_attempts=1, backoff=backoff.constant(0.0))
        self.bus = EventBus("studio", transport=self.outbox)
        self.heard = []
        self.broken = True
        self.bus.subscribe("paint.*", self.hear)
        PaintKit(self.app, bus=[self.bus, EventBus("local")])
        blocking = DatabaseConnectionManager(f"sqlite:///{path}")
        self.publisher = EventBus("publisher", transport=Outbox(blocking))
        self.publisher.transport.create_tables()
        self.close = blocking.close

    def hear(self, data):
        assert current_app.name == "shop"
        if data == "poison" and self.broken:
            raise ValueError("broken")
        self.heard.append(data)


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def shop(request, tmp_path):
    shop = Shop(tmp_path / "shop.db", request.param)
    yield shop
    shop.close()
    if not request.param:
        shop.db.close()


@pytest.mark.parametrize(
    "command",
    [("status",), ("replay", "--all"), ("purge",), ("relay", "--once")],
    ids=lambda command: command[0],
)
def test_without_tables_a_command_says_how_they_are_made(tmp_path, command):
    """In one line."""
    app = Flask("shop")
    bus = EventBus(transport=Outbox(DatabaseConnectionManager(f"sqlite:///{tmp_path / 'empty.db'}")))
    bus.subscribe("*", lambda data: None, name="hear")
    PaintKit(app, bus=bus)
    result = run(app, "outbox", *command)
    assert 1 == result.exit_code
    assert 1 == result.output.count("outbox.create_tables()") == result.output.count("\n")


def test_an_operator_sees_replays_and_purges(shop):
    """From the event that waits to the dead letter that is replayed."""
    for data in ("red", "poison"):
        shop.publisher.publish("paint.created", data)
    assert "waiting    2" in run(shop.app, "outbox", "status").output
    assert "2 claimed" in run(shop.app, "outbox", "relay", "--once").output
    assert ["red"] == shop.heard
    status = json.loads(run(shop.app, "outbox", "status", "--json").output)
    [letter] = status["dead_letters"]
    assert ("paint.created", "poison", 1) == (letter["type"], letter["data"], letter["attempts"])
    assert letter["id"] in run(shop.app, "outbox", "status").output
    assert letter["id"] not in run(shop.app, "outbox", "status", "--dead", "0").output
    shop.broken = False
    assert "0 put back" in run(shop.app, "outbox", "replay", "--type", "nothing").output
    assert "1 put back" in run(shop.app, "outbox", "replay", letter["id"]).output
    assert "0 put back" in run(shop.app, "outbox", "replay", "--all").output
    run(shop.app, "outbox", "relay", "--once")
    assert ["red", "poison"] == shop.heard
    assert "0 removed" in run(shop.app, "outbox", "purge").output
    assert "2 removed" in run(shop.app, "outbox", "purge", "--days", "0", "--dead-days", "0").output


def test_what_is_not_clear_is_asked_for(shop, app):
    """Which dead letters, which bus; and an app without an outbox says so."""
    assert "--all" in run(shop.app, "outbox", "replay").output
    assert 2 == run(shop.app, "outbox", "replay").exit_code
    wrong = run(shop.app, "outbox", "replay", "no-such-id")
    assert (1, "Error: no dead letter has the id no-such-id\n") == (wrong.exit_code, wrong.output)
    assert "one of studio" in run(shop.app, "outbox", "status", "--bus", "local").output
    assert 0 == run(shop.app, "outbox", "status", "--bus", "studio").exit_code
    PaintKit(app)
    assert "no bus of this app has an outbox" in run(app, "outbox", "status").output
    deaf = Flask("deaf")
    PaintKit(deaf, bus=EventBus("deaf", transport=Outbox(shop.db)))
    assert "Error: the bus 'deaf' has no handlers" in run(deaf, "outbox", "relay", "--once").output
    assert 2 == run(shop.app, "outbox", "purge", "--days", "367").exit_code


def test_a_bus_with_another_transport_has_no_outbox(shop, app):
    """Redis Streams have dead letters, too, and nothing that these commands could ask."""
    live = EventBus("live", transport=RedisStreams("redis://localhost:6379/0"))
    PaintKit(app, bus=live)
    assert "no bus of this app has an outbox" in run(app, "outbox", "status").output
    both = Flask("both")
    PaintKit(both, bus=[shop.bus, live])
    assert "waiting    0" in run(both, "outbox", "status").output
    assert "one of studio" in run(both, "outbox", "status", "--bus", "live").output


PROGRAM = """\
    from flask import Flask
    from paintkit import EventBus
    from paintkit.flask import PaintKit
    from paintkit.sqlalchemy import DatabaseConnectionManager, Outbox

    app = Flask("shop")
    bus = EventBus("studio", transport=Outbox(DatabaseConnectionManager("sqlite:///shop.db"), poll_interval=0.05))

    @bus.subscribe("paint.*")
    def hear(data):
        print("heard", data, flush=True)

    PaintKit(app, bus=bus)
"""


def test_a_relay_runs_until_it_is_told_to_stop(tmp_path):
    """As a process of its own, which ends well on SIGTERM."""
    (tmp_path / "shop.py").write_text(textwrap.dedent(PROGRAM))
    db = DatabaseConnectionManager(f"sqlite:///{tmp_path / 'shop.db'}")
    outbox = Outbox(db)
    outbox.create_tables()
    EventBus(transport=outbox).publish("paint.created", "red")
    log = tmp_path / "log"
    with log.open("w") as output:
        relay = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "shop", "paintkit", "outbox", "relay"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: "heard red" in log.read_text(), 60.0)
        relay.send_signal(signal.SIGTERM)
        assert 0 == relay.wait(60), log.read_text()
    finally:
        relay.kill()
        relay.wait()
    assert 0 == outbox.status()["waiting"]
    db.close()
