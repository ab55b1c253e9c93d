"""Commands as bytes, and scripts that the server knows by their digest.

A look at the cache is one command, of which the packing and dispatching in a general client is the larger half. So ours are
packed here, and travel over redis-py's connections, which know about addresses, passwords and TLS.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

__all__ = ["Batch", "Command", "Script", "packed", "part"]


def part(data: bytes) -> bytes:
    """Return a part of a command as it goes over the wire."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def packed(*parts: bytes) -> bytes:
    r"""Return a command as it goes over the wire (RESP).

    Example:
        >>> packed(b"GET", b"key")
        b'*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n'
    """
    return b"*%d\r\n" % len(parts) + b"".join(map(part, parts))


class Script:
    """A Lua script: what it does, it does at one instant for everybody.

    Attributes:
        source: Its text.
    """

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        # The protocol's name of a script, no matter of security.
        self._digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()

    def call(self, keys: tuple[bytes, ...], arguments: tuple[bytes, ...]) -> bytes:
        """Return what runs it, if the server knows it."""
        return packed(b"EVALSHA", self._digest, b"%d" % len(keys), *keys, *arguments)

    def first_call(self, keys: tuple[bytes, ...], arguments: tuple[bytes, ...]) -> bytes:
        """Return what runs it, and teaches it to the server."""
        return packed(b"EVAL", self.source, b"%d" % len(keys), *keys, *arguments)


class Batch:
    """Several plain commands in one go, for what needs no script: each is a step of its own.

    Attributes:
        data: What goes over the wire.
        count: How many replies come back.
    """

    __slots__ = ("count", "data")

    def __init__(self, data: bytes, count: int) -> None:
        self.data = data
        self.count = count


#: A script, its keys and its arguments; or plain commands.
Command: TypeAlias = tuple[Script, tuple[bytes, ...], tuple[bytes, ...]] | Batch
