"""What makes two calls the same call: their arguments, frozen into one exact, hashable key.

Every value is frozen together with its type, so `1`, `True`, `1.0` and `"1"` differ, as do `0.0` and `-0.0`, while a NaN
equals itself. Containers freeze item by item, dictionaries and sets without order. An object whose class compares by
identity is known by a token that dies with it. No `repr`, no `str` and no foreign `__eq__` or `__hash__` takes part.
"""

from __future__ import annotations

import enum
import os
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Final

__all__ = ["PLAIN", "Identity", "freeze", "identity_of", "loose_key", "single_key", "typed_key"]

#: Values of exactly these types are their own key wherever their type stands beside them. (A float only if it is
#: neither zero nor NaN.)
PLAIN: Final = frozenset({int, str, bytes, bool, types.NoneType, float})

#: Deeper arguments are either cyclic or no key for anything.
_DEEPEST = 40


class Identity:
    """Stands for one living object in keys, without keeping it alive.

    An address is used again once its object is gone, so an address is no key. This token is never used again.
    """

    __slots__ = ("__weakref__", "_mourners", "_ref")

    def __init__(self, subject: object, forget: Callable[[Any], object]) -> None:
        self._ref = weakref.ref(subject, forget)
        self._mourners: dict[object, Callable[[], object]] = {}

    def mourn(self, who: object, action: Callable[[], object]) -> None:
        """Call `action` once when the object dies, in whatever thread that happens: it must not wait for a lock."""
        self._mourners[who] = action

    def recover(self, who: object) -> None:
        """Take `who` from the mourners."""
        self._mourners.pop(who, None)

    def died(self) -> None:
        """Tell all mourners."""
        mourners, self._mourners = self._mourners, {}
        for action in mourners.values():
            action()


# The tokens of all living subjects of this process, by address. A subject's weak reference reports its death before its
# memory is given back, so an address in here always means the object that is there. Additions and removals are single
# operations of the dictionary and need no lock, which a weak reference's callback could not wait for.
_identities: dict[int, Identity] = {}


def identity_of(subject: object) -> Identity:
    """Return the token of an object.

    Raises:
        TypeError: The object cannot be referred to weakly.
    """
    address = id(subject)
    found = _identities.get(address)
    return found if found is not None else _identify(subject, address)


def _identify(subject: object, address: int) -> Identity:
    def forget(_ref: object) -> None:
        identity = _identities.pop(address, None)
        if identity is not None:
            identity.died()

    try:
        identity = Identity(subject, forget)
    except TypeError:
        kind = type(subject).__qualname__
        raise TypeError(
            f"cannot tell one {kind} from the next in a cache key, for it allows no weak references: add "
            f"'__weakref__' to its __slots__, give it a __cache_key__() method, or pass key_func="
        ) from None
    return _identities.setdefault(address, identity)


def single_key(value: object, identities: list[Identity]) -> tuple[Hashable, type | None]:
    """Return the key of a call with one argument, and the argument's type if the key is the bare argument.

    The bare argument is the quickest key there is. `1` and `True` cannot both be bare keys of one dictionary, so only
    those are whose equals all have their own type, and whoever looks one up compares the type.
    """
    kind = type(value)
    return (value, kind) if kind in _BARE else (freeze(value, identities), None)


_BARE: Final = frozenset({int, str, bytes, types.NoneType})


def typed_key(values: tuple[object, ...], identities: list[Identity]) -> Hashable:
    """Return the key of a call with several arguments: those of plain types as they are, then all types.

    The generated wrappers build the same tuple for plain arguments. An argument that is not plain is frozen, and has no
    type beside it, so that no tuple made of bare arguments equals this one.
    """
    frozen = [value if _is_plain(value) else freeze(value, identities) for value in values]
    kinds = [type(value) if _is_plain(value) else None for value in values]
    return (*frozen, *kinds)


def _is_plain(value: object) -> bool:
    # Not a float that is zero or NaN: the zeros are equal, and a NaN is not.
    return type(value) in PLAIN and (type(value) is not float or bool(value and value == value))  # noqa: PLR0124


def loose_key(
    values: tuple[object, ...], named: Mapping[str, object], identities: list[Identity]
) -> tuple[Hashable, Hashable]:
    """Return the key of a call with any number of arguments; the order of the named ones makes no difference."""
    return (
        tuple(freeze(value, identities) for value in values),
        frozenset((name, freeze(value, identities)) for name, value in named.items()),
    )


def freeze(value: object, identities: list[Identity], depth: int = 0) -> Hashable:
    """Return the exact, hashable form of one argument.

    Args:
        value: The argument.
        identities: Where to note the tokens of objects known by identity: a key is void when one of them dies.
        depth: How many containers are around it.

    Raises:
        TypeError: The value has no exact form.
    """
    if depth > _DEEPEST:
        raise TypeError(
            f"an argument is nested deeper than {_DEEPEST} levels, or contains itself: pass key_func="
        )
    kind = type(value)
    freezer = _FREEZERS.get(kind) or _freezer_for(kind)
    return (kind, freezer(value, lambda part: freeze(part, identities, depth + 1), identities))


# --- How a value of each kind freezes: `_Freezer(value, freeze_part, identities)` gives what follows the type. ---

_Part = Callable[[Any], Hashable]
_Freezer = Callable[[Any, _Part, list[Identity]], Hashable]


def _itself(value: Hashable, _part: _Part, _identities: list[Identity]) -> Hashable:
    return value


def _float(value: float, _part: _Part, _identities: list[Identity]) -> Hashable:
    # `hex` tells the zeros apart and spells every NaN alike.
    return value if value == value and value else float.hex(value)  # noqa: PLR0124 - only a NaN differs from itself


def _complex(value: complex, part: _Part, _identities: list[Identity]) -> Hashable:
    return part(value.real), part(value.imag)


def _sequence(value: Iterable[object], part: _Part, _identities: list[Identity]) -> Hashable:
    return tuple(map(part, value))


def _unordered(value: Iterable[object], part: _Part, _identities: list[Identity]) -> Hashable:
    return frozenset(map(part, value))


def _mapping(value: dict[object, object], part: _Part, _identities: list[Identity]) -> Hashable:
    return frozenset((part(key), part(item)) for key, item in value.items())


def _ordered_mapping(value: dict[object, object], part: _Part, _identities: list[Identity]) -> Hashable:
    return tuple((part(key), part(item)) for key, item in value.items())


def _parts(*names: str) -> _Freezer:
    def freezer(value: object, part: _Part, _identities: list[Identity]) -> Hashable:
        return tuple(part(getattr(value, name)) for name in names)

    return freezer


def _moment(value: Any, part: _Part, _identities: list[Identity]) -> Hashable:
    # Equal moments of different zones print differently, and `fold` takes no part in their equality.
    return value.replace(tzinfo=None, fold=0), value.fold, part(value.tzinfo)


def _decimal(value: Any, _part: _Part, _identities: list[Identity]) -> Hashable:
    return tuple(value.as_tuple())  # 1.0 and 1.00 are equal, and print differently


def _path(value: os.PathLike[str], _part: _Part, _identities: list[Identity]) -> Hashable:
    return os.fspath(value)


def _enum(value: enum.Enum, part: _Part, _identities: list[Identity]) -> Hashable:
    return value.name or part(value.value)  # an unnamed combination of flags is its value


def _own_key(value: Any, part: _Part, _identities: list[Identity]) -> Hashable:
    return part(value.__cache_key__())


def _identity(value: object, _part: _Part, identities: list[Identity]) -> Hashable:
    identity = identity_of(value)
    identities.append(identity)
    return identity


def _dataclass(value: Any, part: _Part, _identities: list[Identity]) -> Hashable:
    import dataclasses  # loaded already, by whoever made the class

    return tuple(part(getattr(value, field.name)) for field in dataclasses.fields(value))


def _attrs(value: Any, part: _Part, _identities: list[Identity]) -> Hashable:
    return tuple(part(getattr(value, field.name)) for field in type(value).__attrs_attrs__)


def _struct(value: Any, part: _Part, _identities: list[Identity]) -> Hashable:
    return tuple(part(getattr(value, name)) for name in type(value).__struct_fields__)


def _model(value: Any, part: _Part, _identities: list[Identity]) -> Hashable:
    return part(value.__dict__), part(value.__pydantic_extra__)


def _plain_part(value: Any, part: _Part, identities: list[Identity]) -> Hashable:
    """Freeze an instance of a subclass of a plain type by its plain value, unless it carries more than that."""
    if getattr(value, "__dict__", None):
        return _refuse(value, part, identities)
    return next(part(plain(value)) for base, plain in _PLAIN_VALUES if isinstance(value, base))


_PLAIN_VALUES: tuple[tuple[type, Callable[[Any], Hashable]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, lambda value: bytes(memoryview(value))),
)


_FREEZERS: dict[type, _Freezer] = {
    int: _itself,
    str: _itself,
    bytes: _itself,
    bool: _itself,
    types.NoneType: _itself,
    types.EllipsisType: _itself,
    types.NotImplementedType: _itself,
    float: _float,
    complex: _complex,
    list: _sequence,
    tuple: _sequence,
    deque: _sequence,
    bytearray: lambda value, _part, _identities: bytes(value),
    set: _unordered,
    frozenset: _unordered,
    dict: _mapping,
    OrderedDict: _ordered_mapping,
    types.MappingProxyType: _mapping,
    range: _parts("start", "stop", "step"),
    slice: _parts("start", "stop", "step"),
    types.MethodType: _parts("__self__", "__func__"),
}

# Immutable values of the standard library, by name: none of these modules is imported for their sake.
_BY_NAME: dict[tuple[str, str], _Freezer] = {
    ("datetime", "date"): _itself,
    ("datetime", "timedelta"): _itself,
    ("datetime", "datetime"): _moment,
    ("datetime", "time"): _moment,
    ("datetime", "timezone"): lambda value, _part, _identities: (value.utcoffset(None), value.tzname(None)),
    ("zoneinfo", "ZoneInfo"): _parts("key"),
    ("decimal", "Decimal"): _decimal,
    ("fractions", "Fraction"): _parts("numerator", "denominator"),
    ("uuid", "UUID"): _parts("int"),
    ("ipaddress", "IPv4Address"): _itself,
    ("ipaddress", "IPv6Address"): _itself,
    ("ipaddress", "IPv4Network"): _itself,
    ("ipaddress", "IPv6Network"): _itself,
}


def _freezer_for(kind: type) -> _Freezer:
    """Find how values of a class freeze; the first rule that fits wins."""
    known = _BY_NAME.get((kind.__module__, kind.__qualname__))
    if known is not None:
        return known
    return next((freezer for fits, freezer in _RULES if fits(kind)), _refuse)


def _compares_by_identity(kind: type) -> bool:
    own: tuple[object, object] = (kind.__eq__, kind.__hash__)
    return own == (object.__eq__, object.__hash__)


def _has(name: str) -> Callable[[type], bool]:
    return lambda kind: hasattr(kind, name)


_RULES: tuple[tuple[Callable[[type], bool], _Freezer], ...] = (
    (_has("__cache_key__"), _own_key),
    (lambda kind: issubclass(kind, enum.Enum), _enum),
    (_compares_by_identity, _identity),
    (lambda kind: issubclass(kind, os.PathLike), _path),
    (lambda kind: issubclass(kind, tuple) and hasattr(kind, "_fields"), _sequence),
    (_has("__dataclass_fields__"), _dataclass),  # one of pydantic's is no model
    (_has("__pydantic_fields__"), _model),
    (_has("__attrs_attrs__"), _attrs),
    (_has("__struct_fields__"), _struct),
    (lambda kind: issubclass(kind, tuple(base for base, _ in _PLAIN_VALUES)), _plain_part),
)


def _refuse(value: object, _part: _Part, _identities: list[Identity]) -> Hashable:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise TypeError(
        f"a {kind} has no exact cache key: give its class a __cache_key__() method that returns what tells its values "
        f"apart, pass plain data instead, or pass key_func="
    )
