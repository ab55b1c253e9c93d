r"""Envelopes: how a value, and what has to be known to trust it, stands in Redis.

    version (20)      layout "PK\\x01", kind, 16 random bytes: see `scripts`
    spans (32)        seconds of its life; between the end of freshness and of use; that it stands beyond; of its load
    call (16)         another digest of the call than the one in its key, so that two calls of one key are told apart
    tokens (1 + 8n)   how many, and under which ones it was loaded; the server compares them
    flags (1)         compressed, signed
    payload           the rest, but for
    signature (32)    HMAC-SHA256 over the address and all of the above, so that a value cannot be moved to another key

Whoever can write to Redis can write anything there. So nothing here believes a length, a number or a type, and a payload is
neither decompressed nor decoded before all that is around it is in order.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "FRONT",
    "TOKEN",
    "VALUE",
    "VERSION",
    "Envelopes",
    "Front",
    "Rejected",
    "call_digest",
    "read_spans",
    "split_tokens",
    "tombstone",
    "vacancy",
    "version",
]

#: Bytes of a version.
VERSION = 20

#: Bytes before the tokens.
FRONT = 69

TOKEN = 8

_LAYOUT = b"PK\x01"

#: What a value begins with.
VALUE = _LAYOUT + b"V"

_FRONT = struct.Struct("<20sdddd16sB")
_COMPRESSED, _SIGNED = 1, 2
_SIGNATURE = 32

_NOTHING = hashlib.blake2b(digest_size=16, person=b"envelope")

# Seconds; no span of ours is longer.
_LONGEST = 1e9


class Rejected(ValueError):  # noqa: N818 - a verdict on a value, never an error of a call
    """What stands there is not what we would have put there.

    Attributes:
        reason: In one word, for the statistics.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Front(NamedTuple):
    """What comes before the payload.

    Attributes:
        version: Of this value.
        life: Seconds from the fill to the end of use.
        stale: Seconds from the end of freshness to the end of use.
        grace: Seconds that it stands beyond its use, so that a load that began before has something to be checked against.
        seconds: How long its load took.
        call: A digest of the exact form of the call.
        tokens: Those under which it was loaded, one after the other.
    """

    version: bytes
    life: float
    stale: float
    grace: float
    seconds: float
    call: bytes
    tokens: bytes


def call_digest(canonical: bytes) -> bytes:
    """Return the digest of a call's exact form."""
    digest = _NOTHING.copy()  # takes half the time of a new one
    digest.update(canonical)
    return digest.digest()


def vacancy() -> bytes:
    """Return a version for a place where nothing stands: what a look leaves there."""
    return _LAYOUT + b"L" + os.urandom(16)


def tombstone() -> bytes:
    """Return a version for a place that was dropped."""
    return _LAYOUT + b"T" + os.urandom(16)


def version() -> bytes:
    """Return a version for a value."""
    return VALUE + os.urandom(16)


def read_spans(data: bytes, canonical: bytes) -> tuple[float, float, float, float]:
    """Return the spans in the envelope of a call of that exact form: its life, stale, grace and seconds, see `Front`.

    Raises:
        Rejected: It is none of ours, or another call's.
    """
    if len(data) < FRONT:
        raise Rejected("malformed")
    name, life, stale, grace, seconds, call, count = _FRONT.unpack_from(data)
    # Not a number is not in order either: it fails every comparison.
    spans = (
        0 <= life <= _LONGEST
        and 0 <= stale <= _LONGEST
        and 0 <= grace <= _LONGEST
        and 0 <= seconds <= _LONGEST
    )
    if not spans or not name.startswith(VALUE) or len(data) < FRONT + count * TOKEN:
        raise Rejected("malformed")
    if call != call_digest(canonical):
        raise Rejected("other_call")
    return life, stale, grace, seconds


def split_tokens(data: bytes) -> tuple[bytes, ...]:
    """Return the tokens that stand one after the other."""
    return tuple([data[at : at + TOKEN] for at in range(0, len(data), TOKEN)])


class Envelopes:
    """Puts values into envelopes, and takes them out.

    Args:
        max_bytes: The largest envelope, and the largest payload when decompressed.
        compress_above: Payloads of more bytes are compressed, if that makes them smaller.
        signing_keys: The first signs, all of them verify; none: nothing is signed.
    """

    def __init__(self, *, max_bytes: int, compress_above: int, signing_keys: Sequence[bytes] = ()) -> None:
        self.max_bytes = max_bytes
        self._compress_above = compress_above
        self._keys = tuple(signing_keys)
        #: Whether an address matters.
        self.signs = bool(self._keys)

    def seal(self, address: bytes, front: Front, payload: bytes) -> bytes:
        """Return the envelope of a value for an address.

        Raises:
            Rejected: It is too large.
        """
        if len(payload) > self.max_bytes:  # it could not be taken out again, whatever compression makes of it
            raise Rejected("too_large")
        flags = _SIGNED if self._keys else 0
        if len(payload) > self._compress_above:
            smaller = zlib.compress(payload, 1)
            if len(smaller) < len(payload):
                payload, flags = smaller, flags | _COMPRESSED
        spans = (front.life, front.stale, front.grace, front.seconds)
        head = _FRONT.pack(front.version, *spans, front.call, len(front.tokens) // TOKEN)
        data = b"".join((head, front.tokens, bytes((flags,)), payload))
        if self._keys:
            data += _sign(self._keys[0], address, data)
        if len(data) > self.max_bytes:
            raise Rejected("too_large")
        return data

    def open(self, address: bytes, canonical: bytes, data: bytes) -> tuple[Front, bytes]:
        """Return the front and the payload of what stands at an address, for a call of that exact form.

        Raises:
            Rejected: It is none of ours, or not for that address and call.
        """
        spans = read_spans(data, canonical)
        tokens = data[FRONT : FRONT + data[FRONT - 1] * TOKEN]
        front = Front(data[:VERSION], *spans, call_digest(canonical), tokens)
        return front, self.payload(address, data)

    def payload(self, address: bytes, data: bytes) -> bytes:
        """Return the payload of what stands at an address, behind a front that is in order.

        Raises:
            Rejected: It is none of ours, or not for that address.
        """
        if len(data) > self.max_bytes:
            raise Rejected("too_large")
        at = FRONT + data[FRONT - 1] * TOKEN
        flags = data[at] if len(data) > at else ~0
        if flags & ~(_COMPRESSED | _SIGNED):
            raise Rejected("malformed")
        if flags or self.signs:
            data = self._verified(address, data, signed=bool(flags & _SIGNED))
        payload = data[at + 1 :]
        return self._decompressed(payload) if flags & _COMPRESSED else payload

    def _verified(self, address: bytes, data: bytes, *, signed: bool) -> bytes:
        """Return what was signed; without keys of our own we take only what claims no signature."""
        if not self._keys and not signed:
            return data
        body, signature = data[:-_SIGNATURE], data[-_SIGNATURE:]
        if not signed or not any(
            hmac.compare_digest(_sign(key, address, body), signature) for key in self._keys
        ):
            raise Rejected("signature")
        return body

    def _decompressed(self, payload: bytes) -> bytes:
        """Return what was compressed, without ever holding more than the largest value."""
        machine = zlib.decompressobj()
        try:
            plain = machine.decompress(payload, self.max_bytes + 1)
        except zlib.error:
            raise Rejected("malformed") from None
        if len(plain) > self.max_bytes:
            raise Rejected("too_large")
        if not machine.eof or machine.unused_data:
            raise Rejected("malformed")
        return plain


def _sign(key: bytes, address: bytes, data: bytes) -> bytes:
    return hmac.digest(key, struct.pack("<I", len(address)) + address + data, "sha256")
