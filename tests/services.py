"""The services that some tests talk to: skipped where they are absent, failed where they are required.

`PAINTKIT_REQUIRE=postgres,redis` names those whose absence is a failure. Each place can be set by its own variable.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

# Seconds; a server that is there may be busy, and a place where none is says so at once.
PATIENCE = 30


class Service(NamedTuple):
    """Where a service is expected, and how to find out whether it answers."""

    variable: str
    default: str
    probe: Callable[[str], None]


def place(name: str) -> str:
    """Return the URL or path of a service that answers; else skip the test, or fail it if CI requires the service."""
    service = SERVICES[name]
    address = os.environ.get(service.variable, service.default)
    problem = _problem(name, address)
    if problem is not None:
        absent(
            name, f"{name} is not to be had at {address} ({problem}); {service.variable} names another place"
        )
    return address


def absent(name: str, reason: str) -> NoReturn:
    """Skip the test, or fail it if CI requires the service."""
    if name in required():
        pytest.fail(f"required by PAINTKIT_REQUIRE, but {reason}", pytrace=False)
    pytest.skip(reason)


def required() -> frozenset[str]:
    """Return the services named by PAINTKIT_REQUIRE; a name that nobody knows is an error."""
    names = frozenset(filter(None, map(str.strip, os.environ.get("PAINTKIT_REQUIRE", "").split(","))))
    if unknown := names - SERVICES.keys():
        raise pytest.UsageError(f"PAINTKIT_REQUIRE names {sorted(unknown)}; there are {sorted(SERVICES)}")
    return names


@cache
def _problem(name: str, address: str) -> str | None:
    try:
        SERVICES[name].probe(address)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def _connect(address: str) -> None:
    """Let SQLAlchemy connect once, as the tests will."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        address, poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": PATIENCE}
    )
    engine.connect().close()


def _ping(address: str) -> None:
    import redis

    with redis.Redis.from_url(address, socket_connect_timeout=PATIENCE, socket_timeout=PATIENCE) as client:
        client.ping()


def _executable(address: str) -> None:
    if shutil.which(address) is None:
        raise FileNotFoundError(f"no program {Path(address).name}")


def _networks(address: str) -> None:
    """Make a network of our own, with an end in this one, and drop it again."""
    _executable(address)
    name, link = f"paintkit-probe-{os.getpid()}", f"pkp{os.getpid()}"
    steps = [["netns", "add", name], ["link", "add", link, "type", "veth", "peer", "name", f"{link}b"]]
    try:
        for step in steps:
            subprocess.run([address, *step], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise OSError(error.stderr.strip() or "ip failed") from None
    finally:
        for step in (["link", "del", link], ["netns", "del", name]):
            subprocess.run([address, *step], check=False, capture_output=True)


SERVICES = {
    "chromium": Service("PAINTKIT_CHROMIUM", "/usr/bin/chromium", _executable),
    "mariadb": Service("PAINTKIT_MARIADB_URL", "mysql+pymysql://root@127.0.0.1:3306/", _connect),
    "netns": Service("PAINTKIT_NETNS", "ip", _networks),
    "nginx": Service("PAINTKIT_NGINX", "/usr/sbin/nginx", _executable),
    "pgbouncer": Service("PAINTKIT_PGBOUNCER", "/usr/sbin/pgbouncer", _executable),
    "postgres": Service(
        "PAINTKIT_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres", _connect
    ),
    "redis": Service("PAINTKIT_REDIS_URL", "redis://127.0.0.1:6379/0", _ping),
}
