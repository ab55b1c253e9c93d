"""Payloads: the values of one function as bytes, typed by its return annotation, and back.

Each begins with a digest of what the function promises, so that values of older code are misses instead of errors. What
comes back is checked before anything is stored: a value that would not come back as it is, is not stored at all.
"""

from __future__ import annotations

import inspect as python
import pickle
import typing
from typing import Any, NoReturn, Protocol

import msgspec
from msgspec import inspect

from paintkit.redis import schema
from paintkit.redis.envelope import Rejected
from paintkit.redis.likeness import is_same

if typing.TYPE_CHECKING:
    from paintkit.typing import AnyCallable

__all__ = ["Payloads", "pickled", "typed"]


class _Coder(Protocol):
    """What turns values into bytes and back; raises what it likes."""

    def encode(self, value: Any, /) -> bytes: ...

    def decode(self, data: bytes, /) -> Any: ...


class Payloads:
    """The codec of one function.

    Args:
        digest: Of what the function promises.
        coder: What does the work.
    """

    def __init__(self, digest: bytes, coder: _Coder) -> None:
        self._digest = digest
        self._coder = coder

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a value.

        Raises:
            TypeError: The value would not come back as it is.
        """
        try:
            data = self._coder.encode(value)
            back = self._coder.decode(data)
            same = is_same(value, back)
        except Exception as error:
            raise TypeError(f"a {type(value).__qualname__} cannot be stored: {error}") from error
        if not same:
            raise TypeError(f"a {type(value).__qualname__} would not come back as it is")
        return self._digest + data

    def decode(self, payload: bytes) -> Any:
        """Return the value of bytes that somebody else may have written.

        Raises:
            Rejected: They are no value of the function.
        """
        if not payload.startswith(self._digest):
            raise Rejected("schema")
        try:
            return self._coder.decode(payload[schema.DIGEST :])
        except Exception as error:
            raise Rejected("undecodable") from error


class _Typed:
    """msgspec's encoding of one type."""

    def __init__(self, promised: Any, info: inspect.Type) -> None:
        # MessagePack knows moments only in UTC; text keeps the offset.
        if schema.holds(info, inspect.DateTimeType):
            encoder: Any = msgspec.json.Encoder()
            decoder: Any = msgspec.json.Decoder(promised)
        else:
            encoder = msgspec.msgpack.Encoder()
            decoder = msgspec.msgpack.Decoder(promised, ext_hook=_refuse)
        self.encode, self.decode = encoder.encode, decoder.decode


def _refuse(code: int, _data: memoryview) -> NoReturn:
    raise ValueError(
        f"an extension ({code}), which nobody promised: where anything may stand it would become an object"
    )


class _Pickled:
    """Pickle, for payloads whose signature has been verified."""

    def encode(self, value: Any) -> bytes:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)

    def decode(self, data: bytes) -> Any:
        return pickle.loads(data)  # noqa: S301 - signed: RedisLevel refuses pickle without keys


def typed(fn: AnyCallable) -> Payloads:
    """Return the codec of a function's return annotation.

    Raises:
        TypeError: There is none, or it does not say how its values become bytes and come back.
    """
    promised = _promised(fn)
    try:
        info = inspect.type_info(promised)
        strange = schema.unfit(info)
        coder = _Typed(promised, info)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"{_fix(fn)} (its return annotation {promised!r} does not tell how: {error})"
        ) from error
    if strange is not None:
        raise TypeError(f"{_fix(fn)} (its return annotation {promised!r} allows {strange})")
    return Payloads(schema.digest(info), coder)


def pickled(fn: AnyCallable) -> Payloads:
    """Return a codec that pickles; a change of the return annotation is a change of what it promises."""
    annotation = repr(getattr(fn, "__annotations__", {}).get("return"))
    return Payloads(schema.digest(inspect.LiteralType(("pickle", annotation))), _Pickled())


def _promised(fn: AnyCallable) -> Any:
    try:
        hints = typing.get_type_hints(python.unwrap(fn), include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise TypeError(f"{_fix(fn)} (its annotations cannot be read: {error})") from error
    if "return" not in hints:
        raise TypeError(f"{_fix(fn)} (it has no return annotation)")
    return hints["return"]


def _fix(fn: AnyCallable) -> str:
    name = getattr(fn, "__qualname__", repr(fn))
    return (
        f"the values of {name} cannot go to Redis: annotate what it returns with types that msgspec can read and write, "
        f"or keep it in memory with level2=False"
    )
