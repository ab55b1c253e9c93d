"""The only place that wraps a function: one generated wrapper, of the function's own signature.

A wrapper that takes `*args, **kwargs` spends most of its time packing and unpacking them. A wrapper with the function's
own parameters does not, and it answers a wrong call with the function's own `TypeError`. So each wrapper is compiled
from a template: a few lines of body in which only parameter names are filled in. Values (the function, defaults,
helpers) go in by reference, as globals of the wrapper. Every name that is not a parameter gets a prefix that no
parameter starts with. The source is in `linecache`, so tracebacks and debuggers show it.

A template is the body of the wrapper, with these placeholders:

- `$call`: the call of the protected function with the wrapper's arguments (`fn(a, b=b, *args)`), not awaited;
- `$later`: the same call as a `functools.partial`, to be made out of line;
- `$arguments`: the arguments alone, as they stand between the parentheses of a call;
- `$given`: the same, as the user gave them: without the function that `Policy.call` carries;
- `$anything_else`: a helper or a local variable, made unique.
"""

from __future__ import annotations

import enum
import functools
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from paintkit import observations
from paintkit._record import Record
from paintkit._streams import aopen_stream, open_stream

if TYPE_CHECKING:
    from types import CodeType

    from paintkit.telemetry import Metric, Source
    from paintkit.typing import AnyCallable, P, R

__all__ = [
    "Colour",
    "Cost",
    "Parameters",
    "Policy",
    "Templates",
    "binder",
    "call_of",
    "can_be_decorated",
    "colour_of",
    "name_of",
    "never_bare",
    "remembered",
    "wrap",
]

# The flags of code objects that matter here, spelled out because importing `inspect` costs more than all of paintkit.
_VARARGS, _VARKEYWORDS, _GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x04, 0x08, 0x20, 0x80, 0x200


PolicyT = TypeVar("PolicyT", bound="Policy")


class Colour(enum.Enum):
    """What calling a function gives: a result, an awaitable, or an iterator."""

    BLOCKING = "blocking"
    ASYNCIO = "asyncio"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


class Templates(Record):
    """The bodies of a policy's wrappers, by colour; `None` where the policy refuses that colour.

    Attributes:
        name: What the wrapper is called in tracebacks.
        blocking: For `def`.
        asyncio: For `async def`.
        generator: For `def` with `yield`.
        async_generator: For `async def` with `yield`.
    """

    name: str
    blocking: str | None
    asyncio: str | None
    generator: str | None = None
    async_generator: str | None = None

    def of(self, colour: Colour) -> str | None:
        """Return the body for a colour."""
        return {
            Colour.BLOCKING: self.blocking,
            Colour.ASYNCIO: self.asyncio,
            Colour.GENERATOR: self.generator,
            Colour.ASYNC_GENERATOR: self.async_generator,
        }[colour]


class Cost(Record):
    """What one call comes to at worst.

    Attributes:
        calls: How often the protected function runs.
        seconds: How long the caller waits; infinite if nothing bounds it.
    """

    calls: int
    seconds: float


class Policy:
    """The shape that all policies share: a decorator, and a way to protect a single call.

    A subclass gives `_templates` and `_helpers` (the objects that its templates name).
    """

    _templates: Templates
    # What `reconfigure` may change: the options that are not written into the wrappers.
    _adjustable: frozenset[str] = frozenset()
    _origin: _Origin | None = None
    _bound: Callable[..., Any] | None = None
    _abound: Callable[..., Any] | None = None

    #: The label of the policy, in errors, observations and statistics.
    name: str

    def __call__(self, fn: Callable[P, R], /) -> Callable[P, R]:
        """Return `fn` protected by this policy, with the same signature.

        Args:
            fn: A function, method, or callable object, `def` or `async def`.

        Raises:
            TypeError: `fn` cannot be protected by this policy.
        """
        return wrap(fn, self._templates, self._helpers())

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn(*args, **kwargs)` under this policy.

        Raises:
            TypeError: `fn` would only hand out a coroutine or a generator, which would then run unprotected.
        """
        colour = colour_of(fn)
        if colour is not Colour.BLOCKING:
            form = "await .acall(…)" if colour is Colour.ASYNCIO else "decorate it"
            raise TypeError(
                f"{name_of(fn)} is a {colour.value} function, which call() cannot protect: {form}"
            )
        if self._bound is None:
            self._bound = self(_call)
        return cast("R", self._bound(fn, *args, **kwargs))

    async def acall(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await `fn(*args, **kwargs)` under this policy.

        Raises:
            TypeError: `fn` is a generator function, whose items would come unprotected.
        """
        if colour_of(fn) in {Colour.GENERATOR, Colour.ASYNC_GENERATOR}:
            raise TypeError(
                f"{name_of(fn)} is a generator function, which acall() cannot protect: decorate it"
            )
        if self._abound is None:
            self._abound = self(_acall)
        return cast("R", await self._abound(fn, *args, **kwargs))

    def reconfigure(self, **options: Any) -> None:
        """Change options of this policy while it is at work; its state stays, and calls in progress end as they began.

        Args:
            options: New values for arguments of the function that made the policy.

        Raises:
            TypeError: An option is unknown, or has the wrong type.
            ValueError: A value is out of range, or the option is written into the wrappers and cannot change.
        """
        fixed = sorted(options.keys() - self._adjustable)
        if fixed or self._origin is None:
            changeable = ", ".join(sorted(self._adjustable)) or "nothing"
            raise ValueError(
                f"{', '.join(fixed)} of {self.name!r} cannot change while it is at work, make a new policy for that;"
                f" what can change: {changeable}"
            )
        origin = _Origin(make=self._origin.make, options={**self._origin.options, **options})
        self._take_over(origin.make_again())
        self._origin = origin
        observations.emit("policy.reconfigured", self.name, **options)

    def worst_case(self, cost: Cost) -> Cost:
        """Return what one call under this policy costs at worst, when what it protects costs `cost`."""
        return cost

    def telemetry(self) -> Iterable[Metric | Source]:
        """Return what this policy has counted, and the sources that it holds, for exporters; see `paintkit.telemetry`."""
        return ()

    def _take_over(self, fresh: Any) -> None:
        """Go on with the options of another policy of the same kind."""
        raise NotImplementedError

    def _helpers(self) -> Mapping[str, Any]:
        raise NotImplementedError


class _Origin(Record):
    """How a policy was made."""

    make: Callable[..., Policy]
    options: Mapping[str, Any]

    def make_again(self) -> Policy:
        """Make another one, which talks to nobody: only its options are wanted."""
        return self.make(**{**self.options, "shared": None} if "shared" in self.options else self.options)


def remembered(make: Callable[P, PolicyT]) -> Callable[P, PolicyT]:
    """Let the policies that a function makes remember how they were made, which `reconfigure` needs."""
    names = make.__code__.co_varnames

    @functools.wraps(make)
    def factory(*args: P.args, **kwargs: P.kwargs) -> PolicyT:
        policy = make(*args, **kwargs)
        policy._origin = _Origin(make=make, options={**dict(zip(names, args, strict=False)), **kwargs})
        return policy

    return factory


def never_bare(
    needs: str, instead: str, *, method: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let what makes decorators refuse a function in the place of its options: it was used as a decorator itself.

    Args:
        needs: What has to be said first.
        instead: How to write it.
        method: Whether it is a method.
    """

    def decorator(make: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(make)
        def maker(*args: P.args, **kwargs: P.kwargs) -> R:
            if len(args) == 1 + method and not kwargs and can_be_decorated(args[-1]):
                raise TypeError(f"{instead.partition('(')[0]} needs {needs}: write {instead}")
            return make(*args, **kwargs)

        return maker

    return decorator


def can_be_decorated(value: object) -> bool:
    """Whether a decorator got this because it was used bare; what of it cannot be protected is refused by whoever decorates."""
    return callable(value) or isinstance(value, classmethod)


def _call(fn: AnyCallable, /, *args: Any, **kwargs: Any) -> Any:
    return fn(*args, **kwargs)


async def _acall(fn: AnyCallable, /, *args: Any, **kwargs: Any) -> Any:
    return await fn(*args, **kwargs)


# Functions of ours that only carry a call of the user's.
_CARRIERS = (_call, _acall, open_stream, aopen_stream)


def _carries(fn: object) -> bool:
    """Whether `fn` is one of them, or a wrapper around one."""
    while hasattr(fn, "__wrapped__"):
        fn = fn.__wrapped__
    return any(fn is carrier for carrier in _CARRIERS)


def wrap(
    fn: Callable[P, R], templates: Templates, helpers: Mapping[str, Any], *, as_made: bool = False
) -> Callable[P, R]:
    """Return a function with the signature of `fn` whose body is the template of its colour.

    Args:
        fn: What to protect.
        templates: The bodies; see the module's docstring.
        helpers: The objects that the templates name, by placeholder.
        as_made: Whether the wrapper takes `*args, **kwargs`, to see a call as it was made.

    Raises:
        TypeError: `fn` cannot be called, or has a colour without a template.
    """
    colour = colour_of(fn)
    body = templates.of(colour)
    if body is None:
        raise TypeError(f"{templates.name} cannot protect {name_of(fn)}: it is a {colour.value} function")
    parameters = Parameters.any() if as_made else Parameters.of(fn)
    lead = "async def" if colour in {Colour.ASYNCIO, Colour.ASYNC_GENERATOR} else "def"
    wrapper = _generate(fn, f"{lead} {templates.name}", parameters, body, helpers)
    functools.update_wrapper(wrapper, cast("AnyCallable", fn))
    # What stands above @staticmethod in a class must not become a method.
    return cast("Callable[P, R]", staticmethod(wrapper) if isinstance(fn, staticmethod) else wrapper)


def binder(fn: Callable[P, R]) -> Callable[P, functools.partial[R]]:
    """Return a plain function that takes what `fn` takes and returns the call, to be made later.

    The partial's `args` and `keywords` are those of `inspect.BoundArguments` with all defaults filled in.
    """
    bind = _generate(fn, "def bind", Parameters.of(fn), "    return $later\n", {})
    bind.__qualname__ = getattr(
        fn, "__qualname__", bind.__qualname__
    )  # whom Python's error blames for wrong arguments
    return bind


def _generate(
    fn: object, head: str, parameters: Parameters, body: str, helpers: Mapping[str, Any]
) -> AnyCallable:
    prefix = _unused_prefix(parameters.names)
    given = parameters.arguments.partition(", ")[2] if _carries(fn) else parameters.arguments
    source = _expand(f"{head}({parameters.declaration}):\n{body}", parameters.arguments, given, prefix)
    namespace = {prefix + name: helper for name, helper in helpers.items()}
    namespace[f"{prefix}fn"] = fn
    namespace[f"{prefix}partial"] = functools.partial
    function = _function(source, head.rpartition(" ")[2], namespace)
    if parameters.own:
        # The same objects by reference: no default value ever enters the source.
        function.__defaults__ = fn.__defaults__  # type: ignore[attr-defined]  # `own` means a plain function
        function.__kwdefaults__ = fn.__kwdefaults__  # type: ignore[attr-defined]
    return function


def colour_of(fn: object) -> Colour:
    """Tell what calling `fn` gives.

    Raises:
        TypeError: `fn` cannot be called, or is an object whose kind of call cannot be known.
    """
    if isinstance(fn, classmethod):
        raise TypeError(
            "put the policy under @classmethod, not above it: a classmethod object cannot be called"
        )
    if not callable(fn):
        raise TypeError(f"only callables can be protected, not {fn!r} ({type(fn).__name__})")
    code = _code_of(fn)
    flags = 0 if code is None else code.co_flags
    if flags & _COROUTINE or _is_marked(fn):
        return Colour.ASYNCIO
    if flags & _ASYNC_GENERATOR:
        return Colour.ASYNC_GENERATOR
    return Colour.GENERATOR if flags & _GENERATOR else Colour.BLOCKING


def name_of(fn: object) -> str:
    """Return the module and the qualified name of `fn`, the default name of its policies."""
    inner = _innermost(call_of(fn) if isinstance(fn, functools.partial) else fn)
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    module = getattr(inner, "__module__", None) or type(inner).__module__
    return f"{module}.{name}"


def call_of(later: functools.partial[Any]) -> functools.partial[Any]:
    """Return the user's own call behind one that `Policy.call` makes, or that opens a generator."""
    while _carries(later.func) and later.args:
        fn, *args = later.args
        later = fn if isinstance(fn, functools.partial) else functools.partial(fn, *args, **later.keywords)
    return later


def _innermost(fn: object) -> object:
    """Look through `partial`, bound methods and static methods: they say nothing of their own about the call."""
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, staticmethod) or (hasattr(fn, "__self__") and hasattr(fn, "__func__")):
            fn = fn.__func__
        else:
            return fn


def _code_of(fn: object) -> CodeType | None:
    inner = _innermost(fn)
    if isinstance(inner, type):
        return None  # calling a class gives an instance, whatever its `__call__` is
    code = getattr(inner, "__code__", None)
    return code or getattr(_innermost(getattr(type(inner), "__call__", None)), "__code__", None)  # noqa: B004 - its code is asked for


def _is_marked(fn: object) -> bool:
    """Whether `inspect.markcoroutinefunction` or asyncio has marked a plain function as returning a coroutine."""
    inner = _innermost(fn)
    return bool(getattr(inner, "_is_coroutine_mark", None) or getattr(inner, "_is_coroutine", None))


class Parameters(Record):
    """The parameters of a wrapper, as source text.

    Attributes:
        names: All of them, in order.
        declaration: As they stand in a `def`, without defaults.
        arguments: As they stand in a call that passes them on.
        own: Whether they are the function's own; else they are `*args, **kwargs`.
        variadic: Whether there is a `*` or `**` parameter among them.
    """

    names: tuple[str, ...]
    declaration: str
    arguments: str
    own: bool
    variadic: bool

    @classmethod
    def any(cls) -> Parameters:
        """Return `*args, **kwargs`."""
        stars = "*args, **kwargs"
        return cls(names=("args", "kwargs"), declaration=stars, arguments=stars, own=False, variadic=True)

    @classmethod
    def of(cls, fn: object) -> Parameters:
        """Read them from the code object; anything but a plain Python function takes `*args, **kwargs`."""
        code: CodeType | None = getattr(fn, "__code__", None)
        bound = hasattr(fn, "__self__")  # the code of a bound method names its object, the call does not
        if code is None or not hasattr(fn, "__kwdefaults__") or (bound and not code.co_argcount):
            return cls.any()
        names = code.co_varnames[bound : _parameter_count(code)]
        taken = code.co_argcount - bound
        positional, rest = names[:taken], list(names[taken:])
        keywords, rest = rest[: code.co_kwonlyargcount], rest[code.co_kwonlyargcount :]
        declared, passed = list(positional), list(positional)
        if code.co_posonlyargcount > bound:
            declared.insert(code.co_posonlyargcount - bound, "/")
        if code.co_flags & _VARARGS:
            star = "*" + rest.pop(0)
            declared.append(star)
            passed.append(star)
        elif keywords:
            declared.append("*")
        declared += keywords
        passed += [f"{name}={name}" for name in keywords]
        if code.co_flags & _VARKEYWORDS:
            star = "**" + rest.pop(0)
            declared.append(star)
            passed.append(star)
        variadic = bool(code.co_flags & (_VARARGS | _VARKEYWORDS))
        return cls(
            names=names,
            declaration=", ".join(declared),
            arguments=", ".join(passed),
            own=True,
            variadic=variadic,
        )


def _parameter_count(code: CodeType) -> int:
    stars = bool(code.co_flags & _VARARGS) + bool(code.co_flags & _VARKEYWORDS)
    return code.co_argcount + code.co_kwonlyargcount + stars


def _unused_prefix(names: tuple[str, ...]) -> str:
    prefix = "_p_"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix


def _expand(template: str, arguments: str, given: str, prefix: str) -> str:
    call = f"{prefix}fn({arguments})"
    later = f"{prefix}partial({', '.join(filter(None, (prefix + 'fn', arguments)))})"
    texts = {"call": call, "later": later, "arguments": arguments, "given": given}
    return re.sub(r"\$(\w+)", lambda found: texts.get(found[1], prefix + found[1]), template)


# Compiled by source text: as many as there are different signatures in a program, however often it decorates.
_compiled: dict[str, CodeType] = {}
_compiling = threading.Lock()


def _function(source: str, name: str, namespace: dict[str, Any]) -> AnyCallable:
    exec(_compile(source, name), namespace)  # noqa: S102 - our own template; only parameter names enter the text
    return cast("AnyCallable", namespace.pop(name))


def _compile(source: str, name: str) -> CodeType:
    code = _compiled.get(source)
    if code is None:
        import linecache

        with _compiling:
            filename = f"<paintkit {name} {len(_compiled)}>"
            code = _compiled.setdefault(source, compile(source, filename, "exec"))
            linecache.cache[code.co_filename] = (
                len(source),
                None,
                source.splitlines(keepends=True),
                code.co_filename,
            )
    return code
