"""What a return annotation promises, as a digest: a change of the code changes it, and old values become misses."""

from __future__ import annotations

import enum
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import inspect

__all__ = ["DIGEST", "digest", "holds", "unfit"]

#: Bytes.
DIGEST = 8


def digest(info: inspect.Type) -> bytes:
    """Return the digest of a type: of its shape, names, and the values of its enums, but not of defaults or methods."""
    return blake2b(_text(info, set()).encode("utf-8", "surrogatepass"), digest_size=DIGEST).digest()


def holds(info: inspect.Type, kind: type[inspect.Type]) -> bool:
    """Return whether a type of that kind is in it anywhere."""
    return any(isinstance(part, kind) for part in _parts(info))


def unfit(info: inspect.Type) -> str | None:
    """Return what in it cannot be turned into bytes and back, if anything."""
    if isinstance(info, inspect.AnyType):
        return "anything at all"
    strange = next(
        (part for part in _parts(info) if isinstance(part, inspect.CustomType | inspect.ExtType)), None
    )
    return None if strange is None else getattr(getattr(strange, "cls", None), "__qualname__", "an extension")


def _parts(info: inspect.Type) -> list[inspect.Type]:
    """Return a type and all that it is made of, each once."""
    found: list[inspect.Type] = []
    unseen: list[Any] = [info]
    seen: set[int] = set()
    while unseen:
        part = unseen.pop()
        if isinstance(part, tuple):
            unseen.extend(part)
        elif isinstance(part, msgspec.Struct) and id(part) not in seen:
            seen.add(id(part))
            if isinstance(part, inspect.Type):
                found.append(part)
            unseen.extend(getattr(part, name) for name in _described(part))
    return found


def _described(part: msgspec.Struct) -> list[str]:
    # Defaults and notes are no part of the shape, and may be any object: one that another process writes in another way.
    return [name for name in part.__struct_fields__ if not name.startswith(("default", "extra"))]


def _text(part: object, around: set[object]) -> str:
    if isinstance(part, tuple):
        return f"({','.join([_text(item, around) for item in part])})"
    if isinstance(part, type):
        return _class(part)
    if not isinstance(part, msgspec.Struct):
        return repr(part)
    cls = getattr(part, "cls", None)
    if cls is not None and cls in around:  # a type that contains itself
        return f"{type(part).__name__}:{cls!r}"
    inside = around | {cls} if cls is not None else around
    fields = [f"{name}={_text(getattr(part, name), inside)}" for name in _described(part)]
    return f"{type(part).__name__}({','.join(fields)})"


def _class(cls: type) -> str:
    name = f"{cls.__module__}.{cls.__qualname__}"
    if issubclass(cls, enum.Enum):
        return f"{name}{[(one.name, one.value) for one in cls]!r}"
    return name
