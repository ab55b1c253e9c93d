"""A cached function: a wrapper, generated for its signature, that looks for the value of a call.

A hit is one look-up in a dictionary, one reading of the clock and two comparisons, without a lock. All else is out of
line, in `loading`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from paintkit import ambient, clock
from paintkit._wrap import Colour, Parameters, Templates, binder, colour_of, name_of, wrap
from paintkit.cache.entries import Section
from paintkit.cache.extras import AsyncExtras, Bind, Extras, attach
from paintkit.cache.keys import loose_key, single_key, typed_key
from paintkit.cache.loading import Arguments, KeyMaker, Loader, Options, Picker

if TYPE_CHECKING:
    from paintkit.cache.sharing import Shared
    from paintkit.cache.store import Store
    from paintkit.typing import AnyCallable

__all__ = ["cached"]

_LOOK = """\
    try:
        $entry = {find}
    except Exception:
        $entry = None
    if $entry is not None{same_kind}:
        $value = $entry.value
        if {in_time} and not $process.detours:
            $entry.hits += 1
{note}            return {value}
"""
_NOTE = "            $note($entry)\n"
_IN_TIME = "$clock.now() < $entry.due"
_IN_TIME_AND_TRUSTED = "($now := $clock.now()) < $entry.due and $now < $trust.until"
_MAKE_KEY = """\
    $key = $key_func(*args, **kwargs)
    if $key.__class__ is not $str or not $key:
        $refuse_key($key)
"""


def _body(parameters: Parameters, options: Options, look: Callable[..., str], *, method: bool) -> str:
    """Return the body of the wrapper up to the miss.

    Measured with CPython 3.11 against a bare pass-through wrapper: the bare argument as key, its type compared in the
    entry, 1.25; a tuple of argument and type 1.45; `get` in a `try` is as quick as a subscript, and a miss does not raise.
    """
    if options.key_func is not None:
        return _MAKE_KEY + look(find=_finding("$get", "$key", options), same_kind="")
    if parameters.variadic:
        return ""
    names = [name for name in parameters.names[method:] if name not in options.ignore]
    if len(names) == 1:
        key, same_kind = names[0], f" and $entry.kind is {names[0]}.__class__"
    else:
        key, same_kind = f"({', '.join([*names, *(f'{name}.__class__' for name in names)])})", ""
    get = f"$receivers.get($id({parameters.names[0]}), $nobody).get" if method else "$get"
    return look(find=_finding(get, key, options), same_kind=same_kind)


def _finding(get: str, key: str, options: Options) -> str:
    return f"{get}(($variant(), {key}))" if options.vary else f"{get}({key})"


def cached(fn: AnyCallable, store: Store, options: Options) -> AnyCallable:
    """Return the cached form of a function.

    Raises:
        TypeError: The function cannot be cached.
        ValueError: Its name is taken in the second level.
    """
    colour = colour_of(fn)
    if colour in {Colour.GENERATOR, Colour.ASYNC_GENERATOR}:
        raise TypeError(
            f"cannot cache {name_of(fn)}: a call of it gives a generator, whose items can be read only once; return a list or "
            f"a tuple"
        )
    parameters = Parameters.of(fn)
    # A wrapper that takes anything tells by `__wrapped__` what it really takes.
    telling = parameters.own and not (parameters.variadic and hasattr(fn, "__wrapped__"))
    bind, names = (binder(fn), parameters.names) if telling else _bound_by_signature(fn)
    method = _is_method(fn, names)
    shared = _share(fn, store, parameters, options) if options.level2 else None
    section = Section(name_of(fn), options.keeping, shared)
    make_key = _key_maker(parameters, options.ignore, method=method)
    pick = _picker(fn, options.ignore, telling=telling, method=method) if options.ignore else None
    loader = Loader(store, section, options, make_key, pick, method=method)
    look = _body(
        parameters,
        options,
        functools.partial(
            _LOOK.format,
            in_time=_IN_TIME if shared is None else _IN_TIME_AND_TRUSTED,
            note="" if store.level.note is None else _NOTE,
            value="$value" if options.copy is None else "$copy($value)",
        ),
        method=method,
    )
    call = "$later" if telling else "$bind($arguments)"
    if options.key_func is not None:
        call = "$bind(*args, **kwargs), $key"
    wrapper = wrap(
        fn,
        Templates(
            name="cached",
            blocking=f"{look}    return $miss({call})\n",
            asyncio=f"{look}    return await $amiss({call})\n",
        ),
        {
            "amiss": loader.amiss,
            "bind": bind,
            "clock": clock,
            "copy": options.copy,
            "get": section.table.get,
            "id": id,
            "key_func": options.key_func,
            "miss": loader.miss,
            "nobody": section.table,
            "note": store.level.note,
            "process": ambient.process,
            "receivers": section.receivers,
            "refuse_key": _refuse_key,
            "str": str,
            "trust": None if shared is None else shared.sharing.trust,
            "variant": loader.variant,
        },
        as_made=options.key_func is not None,
    )
    extras: Extras[..., Any] | AsyncExtras[..., Any] = (Extras if colour is Colour.BLOCKING else AsyncExtras)(
        loader, bind
    )
    attach(extras, wrapper)
    return wrapper


def _share(fn: AnyCallable, store: Store, parameters: Parameters, options: Options) -> Shared | None:
    """Return the function's part in the second level, if the cache has one.

    Its name there holds what its keys are made of: a function that was changed in this does not find the old values.
    """
    if store.sharing is None:
        return None
    from paintkit.cache.places import digest  # who has one level should not pay for two
    from paintkit.cache.sharing import Shared

    made_of = (
        parameters.declaration,
        sorted(options.ignore),
        [one.name for one in options.vary],
        options.key_func is not None,
    )
    function = f"{name_of(fn)}:{digest(repr(made_of).encode())[:8]}"
    if store.section_of(function) is not None:
        raise ValueError(
            f"two functions called {name_of(fn)} would share their values in the second level of {store.name!r}: give one "
            f"another name, or pass level2=False to keep its values in memory"
        )
    return Shared(store.sharing, function, store.sharing.level.codec(fn))


def _is_method(fn: AnyCallable, names: Iterable[str]) -> bool:
    """Tell a method by where it stands and how its first parameter is called: when it is decorated, it is a function."""
    scope = getattr(fn, "__qualname__", "").rpartition(".")[0]
    return bool(scope) and not scope.endswith("<locals>") and next(iter(names), None) in {"self", "cls"}


def _bound_by_signature(fn: AnyCallable) -> tuple[Bind, Iterable[str]]:
    """Return what binds the arguments of a callable whose own parameters say little, and the names of its parameters."""
    import inspect

    def call(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    def bind(*args: Any, **kwargs: Any) -> functools.partial[Any]:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            # A decorator may pass other arguments than it takes: then the call as it was made is all there is.
            return functools.partial(call, *args, **kwargs)
        bound.apply_defaults()
        return functools.partial(call, *bound.args, **bound.kwargs)

    try:
        signature = inspect.signature(fn)
    except ValueError:
        return functools.partial(functools.partial, call), ()
    return bind, signature.parameters


def _picker(fn: AnyCallable, ignored: frozenset[str], *, telling: bool, method: bool) -> Picker:
    """Return what leaves the ignored ones out of bound arguments (those of a method without its object)."""
    import inspect

    parameters = list(inspect.signature(fn, follow_wrapped=not telling).parameters.values())[method:]
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = {one.name for one in parameters if one.kind in {*plain, inspect.Parameter.KEYWORD_ONLY}}
    unknown = sorted(ignored - named)
    if unknown and not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        raise ValueError(
            f"ignore names {', '.join(map(repr, unknown))}, which {name_of(fn)} does not take; it takes "
            f"{', '.join(map(repr, sorted(named))) or 'nothing by name'}"
        )
    positional = [one.name for one in parameters if one.kind in plain]
    places = {place for place, name in enumerate(positional) if name in ignored}

    def pick(args: tuple[Any, ...], named: Mapping[str, Any]) -> Arguments:
        return (
            tuple(value for place, value in enumerate(args) if place not in places),
            {name: value for name, value in named.items() if name not in ignored},
        )

    return pick


def _key_maker(parameters: Parameters, ignored: frozenset[str], *, method: bool) -> KeyMaker:
    """Return what makes the key that the wrapper of these parameters looks for."""
    names = [name for name in parameters.names[method:] if name not in ignored]
    if parameters.variadic:
        return lambda args, named, identities: (loose_key(args, named, identities), None)
    if len(names) == 1:
        return lambda args, named, identities: single_key(args[0] if args else named[names[0]], identities)
    return lambda args, named, identities: (typed_key((*args, *named.values()), identities), None)


def _refuse_key(key: object) -> NoReturn:
    if key.__class__ is str:
        raise ValueError("key_func must not return '': an empty key could not be invalidated")
    raise TypeError(f"key_func must return a string, not {key!r} ({type(key).__name__})")
