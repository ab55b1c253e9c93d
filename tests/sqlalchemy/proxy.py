"""A proxy before PostgreSQL that loses one connection around one COMMIT: before it arrives, while it does, or after."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from enum import Enum
from typing import Self

from sqlalchemy import make_url


class Cut(Enum):
    """When the connection goes."""

    BEFORE = "the server never sees the COMMIT"
    DURING = "the COMMIT is on its way, nobody waits for it"
    AFTER = "the server has committed, its answer is lost"


class Proxy:
    """Passes everything on, but for the next COMMIT after `arm`.

    Args:
        url: Where PostgreSQL is; the proxy's own address is `url`.
    """

    def __init__(self, url: str) -> None:
        target = make_url(url)
        self._server = (target.host or "127.0.0.1", target.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        # Messages can only be read if nobody encrypts them.
        self.url = target.set(
            host="127.0.0.1",
            port=self._listener.getsockname()[1],
            query={"sslmode": "disable", "gssencmode": "disable"},
        ).render_as_string(hide_password=False)
        self._cut: Cut | None = None
        self._silent = False
        #: Whether new connections are refused.
        self.closed = False
        #: How many COMMITs were lost.
        self.cuts = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # A close alone would leave `accept` waiting.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def arm(self, cut: Cut, *, closed: bool = False, silent: bool = False) -> None:
        """Lose the next COMMIT, and with `closed` every later attempt to connect.

        With `silent` an answer is lost and the connection stays, as if it were still to come.
        """
        self._cut, self._close_after, self._silent = cut, closed, silent

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.closed:
                    client.close()
                    continue
                pair = _Pair(client, socket.create_connection(self._server))
                threading.Thread(target=self._to_server, args=(pair,), daemon=True).start()
                threading.Thread(target=self._to_client, args=(pair,), daemon=True).start()

    def _to_server(self, pair: "_Pair") -> None:
        with pair:
            pair.server.sendall(_counted(pair.client))  # the first message has no kind
            for kind, message in _messages(pair.client):
                if self._cut is not None and kind == b"Q" and message[5:].upper().startswith(b"COMMIT"):
                    cut, self._cut = self._cut, None
                    self.cuts += 1
                    self.closed = self._close_after
                    if cut is Cut.BEFORE:
                        return
                    pair.deaf = cut is Cut.AFTER
                    pair.server.sendall(message)
                    if cut is Cut.DURING:
                        return
                else:
                    pair.server.sendall(message)

    def _to_client(self, pair: "_Pair") -> None:
        with pair:
            for kind, message in _messages(pair.server):
                if not pair.deaf:
                    pair.client.sendall(message)
                elif kind == b"C" and not self._silent:
                    return


class _Pair:
    """Two sockets that go together."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or small messages wait for each other
        #: Whether nothing reaches the client any more.
        self.deaf = False

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        return kind is not None and issubclass(kind, OSError | EOFError)


def _messages(source: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """Yield each message with its kind: a letter, a length that counts itself, and the rest."""
    while True:
        kind = _exactly(source, 1)
        yield kind, kind + _counted(source)


def _counted(source: socket.socket) -> bytes:
    """Read a length that counts itself, and the rest."""
    length = _exactly(source, 4)
    return length + _exactly(source, struct.unpack("!i", length)[0] - 4)


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = source.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
