"""What the keys of one cache are called in Redis.

The braces are a hash tag: Redis Cluster keeps all keys of one cache in one slot, so that one script may touch them.
"""

from __future__ import annotations

from hashlib import blake2b

from paintkit.redis.wire import part

__all__ = ["ALL", "Names"]

#: The mark under which everything is.
ALL = "all"

# The layout of values and messages; processes of another version live beside us, in keys of their own.
_LAYOUT = 1

# Bytes; a longer mark is known by its digest.
_LONGEST = 200


class Names:
    """The keys of one cache.

    Attributes:
        namespace: The name of the cache.
        run: Where the server's identity is noted, to recognise one that came back with older data.
        number: Counts the messages, so that nobody misses one without noticing.
        stream: The messages, kept; also the channel of those that are not kept.
    """

    def __init__(self, prefix: str, namespace: str) -> None:
        if set("{}") & set(prefix + namespace):
            raise ValueError(f"no braces, please, in {prefix!r} and {namespace!r}: Redis Cluster reads them")
        self.namespace = namespace
        root = f"{prefix}:{{{namespace}}}:{_LAYOUT}:".encode()
        self.run = root + b"run"
        self.number = root + b"number"
        self.stream = root + b"changes"
        self._place = root + b"p:"
        self._token = root + b"t:"
        self._digest = root + b"d:"
        self._first: dict[tuple[str, ...], bytes] = {}

    def place(self, key: str) -> bytes:
        """Return where the value of a call stands."""
        return self._place + key.encode("utf-8", "surrogatepass")

    def parts(self, marks: tuple[str, ...]) -> bytes:
        """Return where the tokens of a place's marks stand, as parts of a command."""
        first = self._first.get(marks[:2])
        if first is None:
            first = self._packed(marks[:2])
            if marks[0] == ALL and marks[1:2] and marks[1].startswith("f:"):
                self._first[marks[:2]] = (
                    first  # the same in all places of a function, and there are few of those
                )
        return first if len(marks) == 2 else first + self._packed(marks[2:])

    def _packed(self, marks: tuple[str, ...]) -> bytes:
        return b"".join([part(self.token(mark)) for mark in marks])

    def token(self, mark: str) -> bytes:
        """Return where the token of a mark stands."""
        name = mark.encode("utf-8", "surrogatepass")
        if len(name) > _LONGEST:
            return self._digest + blake2b(name, digest_size=16).hexdigest().encode()
        return self._token + name
