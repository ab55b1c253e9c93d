"""Where the value of a call stands in a second level: the call's exact form in bytes, alike in every process.

The frozen form of `keys` becomes bytes part by part: a tag for its kind, its length, and what tells it from its kind. So no
two forms become the same bytes. Classes go by their module and qualified name, sets are put in order. What only this process
knows (an object known by identity, a class made inside a function) has no such form, and is refused.
"""

from __future__ import annotations

import struct
import types
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, Final

from paintkit.cache.keys import Identity, freeze
from paintkit.cache.levels import Place

if TYPE_CHECKING:
    from paintkit.cache.entries import Entry

__all__ = ["canonical", "digest", "locate", "mark_of"]

#: The mark that all values of a namespace bear.
ALL: Final = "all"


def mark_of(function: str) -> str:
    """Return the mark of all calls of a function."""
    return f"f:{function}"


def locate(function: str, call: Entry, receiver: object) -> tuple[Place, tuple[str, ...]]:
    """Return the place of a call, and the names by which other processes speak of it: of the place, and of all variants.

    Args:
        function: The function's name in the level.
        call: Its labels are known.
        receiver: The object whose method it is, or `None`.

    Raises:
        TypeError: What the call depends on cannot be told from another process.
    """
    owner = _NOBODY if receiver is None else canonical(_frozen(receiver))
    form = _of(owner, call.key)
    key = f"{function}:{digest(form)}"
    marks = (ALL, f"f:{function}", *[f"t:{label}" for label in call.labels])
    if not call.varies:
        return Place(key=key, canonical=form, marks=marks), (key,)
    variants = f"c:{function}:{digest(_of(owner, call.subject))}"
    return Place(key=key, canonical=form, marks=(*marks, variants)), (key, variants)


def _of(owner: bytes, key: object) -> bytes:
    """Return the bytes of a pair: whose method it is, and what it is called with."""
    body = owner + canonical(key)
    return b"(%d:%s" % (len(body), body)


def _frozen(receiver: object) -> Hashable:
    if isinstance(receiver, type):
        return receiver  # that of a classmethod goes by its name
    identities: list[Identity] = []
    frozen = freeze(receiver, identities)
    if identities:
        raise TypeError(
            f"cannot tell one {type(receiver).__qualname__} from the next in another process, so its methods cannot share "
            f"their values: give it a __cache_key__() method, or pass level2=False to keep them in memory"
        )
    return frozen


def digest(form: bytes) -> str:
    """Return what stands for a form in keys; two forms may have the same, with a chance of about 2**-64."""
    import hashlib

    return hashlib.blake2b(form, digest_size=16).hexdigest()


def canonical(part: object) -> bytes:
    """Return the bytes of a frozen form.

    Raises:
        TypeError: A part of it means something in this process only.
    """
    encoder = _ENCODERS.get(type(part))
    tag, body = (b"o", _other(part)) if encoder is None else encoder(part)
    return b"%s%d:%s" % (tag, len(body), body)


#: Whose method a function is.
_NOBODY: Final = b"n0:"


def _integer(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _class(kind: type) -> bytes:
    if "<locals>" in kind.__qualname__:
        raise TypeError(
            f"another process cannot tell which class {kind.__qualname__} is, for it was made inside a function: define it "
            f"in its module, or pass level2=False to keep the function's values in memory"
        )
    return f"{kind.__module__}.{kind.__qualname__}".encode("utf-8", "surrogatepass")


def _several(parts: Iterable[object]) -> bytes:
    return b"".join(map(canonical, parts))


#: How a part of each kind is told: a tag, and bytes.
_ENCODERS: dict[type, Callable[[Any], tuple[bytes, bytes]]] = {
    types.NoneType: lambda _value: (b"n", b""),
    types.EllipsisType: lambda _value: (b"e", b""),
    types.NotImplementedType: lambda _value: (b"m", b""),
    bool: lambda value: (b"b", b"1" if value else b"0"),
    int: lambda value: (b"i", _integer(value)),
    float: lambda value: (b"f", struct.pack(">d", value)),
    str: lambda value: (b"s", value.encode("utf-8", "surrogatepass")),
    bytes: lambda value: (b"y", value),
    tuple: lambda value: (b"(", _several(value)),
    frozenset: lambda value: (b"{", b"".join(sorted(map(canonical, value)))),
    type: lambda value: (b"t", _class(value)),
}

#: Those that `keys` leaves as they are and whose text is exact, by name: their modules are not imported for their sake.
_EXACT_TEXTS: Final = frozenset(
    {
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "time"),
        ("datetime", "timedelta"),
        ("ipaddress", "IPv4Address"),
        ("ipaddress", "IPv4Network"),
        ("ipaddress", "IPv6Address"),
        ("ipaddress", "IPv6Network"),
    }
)


def _other(part: object) -> bytes:
    kind = type(part)
    if isinstance(part, type):  # of a metaclass of its own
        return _class(part)
    if (kind.__module__, kind.__qualname__) in _EXACT_TEXTS:
        return canonical(kind) + str(part).encode()
    raise TypeError(
        "an argument is known by its identity, which another process cannot tell: pass plain data, give its class a "
        "__cache_key__() method, pass key_func= or ignore=, or pass level2=False to keep the function's values in memory"
    )
