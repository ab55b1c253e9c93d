"""How long a host may be silent: told to the sockets of those drivers that have no option for it.

A host that vanishes sends no farewell, and without these options a connection to it waits for many minutes. libpq has them
as its own; here they are for the others. Where a platform lacks an option, the driver's own timeouts are what remains.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["bound_silence"]


def bound_silence(engine: Engine, seconds: float) -> None:
    """Let every connection of this engine end when its host has been silent for so long.

    Args:
        engine: Its driver may be any; those of libpq know by themselves.
        seconds: Without an acknowledgement of what was sent; while nothing is sent, the host is probed.
    """
    find = _SOCKETS.get(engine.dialect.driver)
    if find is None:
        return

    def prepare(connection: Any, _record: object) -> None:
        found = find(getattr(connection, "driver_connection", connection))
        if found is not None:
            # A twin of the descriptor: event loops hide the socket itself behind objects of their own.
            with socket.socket(fileno=os.dup(found.fileno())) as twin:
                _set(twin, seconds)

    event.listen(engine, "connect", prepare)


def _set(connected: socket.socket, seconds: float) -> None:
    if connected.family not in {socket.AF_INET, socket.AF_INET6}:
        return  # the other end is on this machine
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": max(1, round(seconds)),
        "TCP_KEEPINTVL": max(1, round(seconds / 3)),
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": round(seconds * 1000),
    }
    for name, value in options.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _of_asyncpg(connection: Any) -> Any:
    transport = getattr(connection, "_transport", None)
    return None if transport is None else transport.get_extra_info("socket")


def _of_pymysql(connection: Any) -> Any:
    return getattr(connection, "_sock", None)


_SOCKETS: Final[Mapping[str, Callable[[Any], Any]]] = {"asyncpg": _of_asyncpg, "pymysql": _of_pymysql}
