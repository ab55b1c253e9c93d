"""The laws of cached functions: the wrapper is the function, quicker."""

import asyncio
import contextvars
import functools
import gc
import inspect
import keyword
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import CacheManager
from paintkit.cache.memory import MemoryLevel
from tests.cache.threads import Running
from tests.cache.units import unit_of_work
from tests.colours import Colour


def test_one_call_however_it_is_written(cache, colour):
    """Positional, named and default arguments that mean the same call have one entry."""
    loads = []
    if colour is Colour.BLOCKING:

        @cache.cache_result()
        def load(brand, page=1, *, size=10):
            loads.append((brand, page, size))
            return loads[-1]

    else:

        @cache.cache_result()
        async def load(brand, page=1, *, size=10):
            loads.append((brand, page, size))
            return loads[-1]

    for args, named in [
        (("V",), {}),
        ((), {"brand": "V"}),
        (("V", 1), {"size": 10}),
        ((), {"size": 10, "page": 1, "brand": "V"}),
    ]:
        assert ("V", 1, 10) == colour.call(load, *args, **named)
    assert 1 == len(loads)
    assert ("V", 2, 10) == colour.call(load, "V", 2)
    assert 2 == len(loads)


def test_named_arguments_in_any_order(cache, colour):
    """The order of `**` arguments makes no difference, their names and values do."""
    loads = []
    load = cache.cache_result()(colour.function(lambda *args, **named: loads.append((args, named))))
    colour.call(load, 1, a=1, b=2)
    colour.call(load, 1, b=2, a=1)
    assert 1 == len(loads)
    for args, named in [
        ((1,), {"a": 2, "b": 1}),
        ((1, 1), {}),
        ((True,), {"a": 1, "b": 2}),
        ((), {}),
        ((1,), {"a": 1}),
    ]:
        colour.call(load, *args, **named)
    assert 6 == len(loads)


VALUES = [
    1,
    True,
    1.0,
    "1",
    b"1",
    0,
    False,
    0.0,
    -0.0,
    "",
    None,
    (1,),
    (True,),
    [1],
    float("nan"),
    {"a": 1},
    -1,
    -2,
]


def fresh(_value):
    """Return something new each time."""
    return object()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: fresh((x,)),
        lambda x, y=0: object(),
        lambda *, x: fresh((x,)),
        lambda x, *rest: object(),
        lambda x, /: fresh((x,)),
    ],
    ids=["one", "two", "named", "rest", "positional"],
)
def test_types_are_part_of_the_call(cache, colour, function):
    """`f(1)`, `f(True)`, `f(1.0)` and `f("1")` are different calls, in whatever order they come, each with one entry."""
    load = cache.cache_result()(
        colour.function(function) if colour is Colour.BLOCKING else asynchronous(function)
    )
    named = (
        "x" if inspect.signature(function).parameters["x"].kind is inspect.Parameter.KEYWORD_ONLY else None
    )

    def ask(value):
        return colour.call(load, **{named: value}) if named else colour.call(load, value)

    first = [ask(value) for value in VALUES]
    assert len(VALUES) == len(set(first))
    assert first == [ask(value) for value in VALUES]
    assert list(reversed(first)) == [ask(value) for value in reversed(VALUES)]


def asynchronous(function):
    """Return a coroutine function with the very parameters of a function, which `*args, **kwargs` would not have."""
    declared = str(inspect.signature(function))
    names = {"function": function}
    passed = {"(x)": "x", "(x, y=0)": "x, y", "(*, x)": "x=x", "(x, *rest)": "x, *rest", "(x, /)": "x"}[
        declared
    ]
    exec(f"async def load{declared}: return function({passed})", names)
    return names["load"]


hostile_names = st.sampled_from(
    ["self", "cls", "fn", "args", "kwargs", "key", "entry", "value", "get", "id", "str", "clock", "process", "_p_fn",
     "_p_get", "_p__fn", "_p_entry", "miss", "later", "partial", "type", "None_", "__class__x", "async_", "label", "wrapper"]
)  # fmt: skip
names_of_any_kind = hostile_names | st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name) and not (name.startswith("__") and name.endswith("__"))
)


@st.composite
def signatures(draw):
    """Return the source of a parameter list, what the body returns, and a call."""
    names = draw(st.lists(names_of_any_kind, min_size=1, max_size=6, unique=True))
    kinds = sorted(
        draw(st.lists(st.sampled_from("pna*k+"), min_size=len(names), max_size=len(names))),
        key="pna*k+".index,
    )
    declared, args, named, starred = [], [], {}, set()
    for number, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        if kind in "*+" and kind in starred:
            continue
        starred.add(kind)
        if kind == "*":
            declared.append(f"*{name}")
            args += [number, "more"] if not named else []
        elif kind == "+":
            declared.append(f"**{name}")
        elif kind == "k":
            if not starred & {"*", "bare"}:
                declared.append("*")
                starred.add("bare")
            declared.append(f"{name}=0")
            named[name] = number
        else:
            declared.append(f"{name}=0")
            args.append(number)
            if kind == "p" and "n" not in kinds[:number] and kinds[number + 1 : number + 2] != ["p"]:
                declared.append("/")
    returned = ", ".join(
        name
        for name, kind in zip(names, kinds, strict=True)
        if any(d.strip("*").split("=")[0] == name for d in declared)
    )
    return f"({', '.join(declared)})", returned, tuple(args), named


@given(signatures())
def test_any_signature_with_any_names(signature):
    """Whatever the parameters are called, the wrapper has them, passes them on, and finds its entry again."""
    declared, returned, args, named = signature
    names = {}
    exec(f"def function{declared}: return [{returned}]", names)
    function = names["function"]
    wrapped = CacheManager().cache_result()(function)
    assert inspect.signature(function) == inspect.signature(wrapped)
    expected = function(*args, **named)
    assert expected == wrapped(*args, **named)
    assert wrapped(*args, **named) is wrapped(*args, **named)
    assert 1 == wrapped.info().loads


def test_a_wrong_call_raises_the_functions_own_error(cache, colour):
    """A call that the function would refuse is refused in its words, and leaves nothing behind."""
    load = cache.cache_result()(asynchronous(lambda x: x) if colour is Colour.ASYNCIO else lambda x: x)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        colour.call(load)
    assert 0 == cache.get_stats()["entries"]


def test_none_is_a_value(cache, colour):
    """A function that returns `None` is loaded once."""
    loads = []
    load = cache.cache_result()(colour.function(lambda: loads.append(1)))
    assert [None, None] == [colour.call(load), colour.call(load)]
    assert [1] == loads


def test_an_async_function_caches_its_result(cache):
    """What is kept of an `async def` is what it returns, not the coroutine, which could be awaited once."""

    @cache.cache_result
    async def load(x):
        return x

    async def scenario():
        return [await load(1), await load(1)]

    assert inspect.iscoroutinefunction(load)
    assert [1, 1] == asyncio.run(scenario())


def test_two_functions_of_one_name_stay_apart(cache, colour):
    """Functions of one qualified name, such as closures, share no entries."""

    def make(number):
        return cache.cache_result()(colour.function(lambda x: number))

    one, two = make(1), make(2)
    assert [1, 2, 1, 2] == [colour.call(fn, 0) for fn in (one, two, one, two)]


def test_generators_are_refused(cache):
    """What can be read only once cannot be cached: an error at decoration names the way out."""

    def numbers():
        yield 1

    async def later():
        yield 1

    for function in (numbers, later):
        with pytest.raises(TypeError, match=r"cannot cache .* gives a generator.*return a list"):
            cache.cache_result()(function)


def test_wrong_arguments_of_the_extras_blame_the_function(cache):
    """As the call itself does."""

    @cache.cache_result()
    def price(sku: str) -> int:
        return len(sku)

    for extra in (price, price.invalidate, price.refresh, price.explain, price.peek):
        with pytest.raises(TypeError, match=r"price\(\) missing 1 required positional argument: 'sku'"):
            extra()


def test_a_classmethod_object_is_refused(cache):
    """The decorator belongs under `@classmethod`."""
    with pytest.raises(TypeError, match="under @classmethod"):
        cache.cache_result(classmethod(lambda cls: None))


def test_callables_of_other_kinds(cache):
    """Callable objects, partials and bound methods are cached by their signatures."""
    loads = []

    class Loader:
        def __call__(self, x, y=2):
            loads.append((x, y))
            return x + y

    for function in (Loader(), functools.partial(Loader().__call__, y=2), Loader().__call__):
        cached = cache.cache_result()(function)
        loads.clear()
        assert [3, 3, 3] == [cached(1), cached(x=1), cached(1, y=2)]
        assert [(1, 2)] == loads


def test_under_another_decorator(cache):
    """A function behind a wrapper that takes anything is bound by what it really takes."""
    loads = []

    def passing(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    @cache.cache_result(tags=lambda x, y: (f"{x}-{y}",))
    @passing
    def load(x, y=2):
        loads.append(x)

    load(1), load(x=1), load(1, 2), load(y=2, x=1)
    assert [1] == loads
    cache.invalidate("1-2")
    load(1)
    assert [1, 1] == loads


def test_a_wrapper_that_adds_arguments(cache):
    """A decorator that passes other arguments than it takes is cached by the call as it is made."""

    def with_session(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function("session", *args, **kwargs)

        return wrapper

    load = cache.cache_result()(with_session(lambda session, x: (session, x)))
    assert ("session", 1) == load(1)
    assert load(1) is load(1)


# --- Methods ---


def repository(cache, colour):
    class Repository:
        def __init__(self, name):
            self.name = name

        if colour is Colour.BLOCKING:

            @cache.cache_result(tags=lambda paint_id: (f"paint:{paint_id}",))
            def paint(self, paint_id):
                return [self.name, paint_id]

        else:

            @cache.cache_result(tags=lambda paint_id: (f"paint:{paint_id}",))
            async def paint(self, paint_id):
                return [self.name, paint_id]

    return Repository


def test_each_object_has_its_own_entries(cache, colour):
    """A method's values belong to the object: no object sees another's."""
    made = repository(cache, colour)
    one, two = made("one"), made("two")
    assert ["one", 1] == colour.call(one.paint, 1)
    assert ["two", 1] == colour.call(two.paint, 1)
    assert colour.call(one.paint, 1) is colour.call(one.paint, 1)
    assert 2 == cache.get_stats()["entries"]


def test_an_object_is_not_kept_alive_and_takes_its_entries_along(cache, colour):
    """The cache holds no object whose methods it caches; entries leave with it, at once."""
    made = repository(cache, colour)
    one = made("one")
    value = colour.call(one.paint, 1)
    ref = weakref.ref(one)
    del one
    gc.collect()  # asyncio's own cycles
    assert ref() is None
    assert 0 == cache.get_stats()["entries"]
    assert ["one", 1] == value


def test_an_address_used_again_does_not_inherit(cache, colour):
    """A new object at a dead one's address gets its own values."""
    made = repository(cache, colour)
    for number in range(60):
        one = made(number)
        assert [number, 1] == colour.call(one.paint, 1)
        del one


def test_a_method_is_invalidated_for_one_object(cache, colour):
    """`cache.of(obj.method)` speaks of that object's calls; tags speak of all."""
    made = repository(cache, colour)
    one, two = made("one"), made("two")
    first = [colour.call(each.paint, 1) for each in (one, two)]
    colour.call(cache.of(one.paint).invalidate, 1)
    second = [colour.call(each.paint, 1) for each in (one, two)]
    assert [False, True] == [a is b for a, b in zip(first, second, strict=True)]
    cache.invalidate("paint:1")
    third = [colour.call(each.paint, 1) for each in (one, two)]
    assert [False, False] == [a is b for a, b in zip(second, third, strict=True)]


def test_objects_without_weak_references_are_refused(cache):
    """An object that cannot be watched has no entries: the error names what to add."""

    class Closed:
        __slots__ = ()

        @cache.cache_result()
        def load(self):
            return 1

    with pytest.raises(TypeError, match=r"Closed .*'__weakref__'"):
        Closed().load()


def test_class_methods_and_static_methods(cache):
    """Under `@classmethod` the decorator caches for the class; under or above `@staticmethod`, for nobody."""
    loads = []

    class Repository:
        @classmethod
        @cache.cache_result()
        def made(cls, x):
            loads.append((cls, x))

        @staticmethod
        @cache.cache_result()
        def plain(x):
            loads.append(x)

        @cache.cache_result()
        @staticmethod
        def below(x):
            loads.append(x)

    class Other(Repository):
        pass

    Repository.made(1), Repository.made(1), Other.made(1), Repository().made(1)
    assert [(Repository, 1), (Other, 1)] == loads
    Repository.plain(1), Repository().plain(1)
    assert 3 == len(loads)
    Repository.below(1), Repository().below(1)
    assert 4 == len(loads)
    Repository.below.invalidate(1)
    Repository.below(1)
    assert 5 == len(loads)


def test_equal_objects_are_not_one_object(cache):
    """Whatever `==` says of two objects, a method's values belong to one."""

    class Same:
        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

        @cache.cache_result()
        def load(self):
            return object()

    one, two = Same(), Same()
    assert one.load() is one.load()
    assert one.load() is not two.load()


def test_an_argument_known_by_identity_takes_its_entries_along(cache, colour):
    """An argument that compares by identity is not kept alive; entries that speak of it leave with it."""

    class Session:
        pass

    load = cache.cache_result()(colour.function(lambda session, x: x))
    one, two = Session(), Session()
    for session in (one, two):
        colour.call(load, session, 1)
    assert 2 == cache.get_stats()["entries"]
    ref = weakref.ref(one)
    del one, session
    gc.collect()
    assert ref() is None
    assert 1 == cache.get_stats()["entries"]


def test_an_object_that_dies_while_the_cache_is_busy(cache):
    """A death that comes while the lock is held is dealt with by whoever holds it."""

    class Session:
        pass

    load = cache.cache_result()(lambda session: 1)
    session = Session()
    load(session)
    with cache._store.lock:
        del session  # the callback cannot wait for the lock, which is ours
        assert 1 == len(cache._store.level)
    load(2)
    assert 1 == len(cache._store.level)


def test_decorated_closures_do_not_leak(cache, colour):
    """A function that is gone takes its entries along and is not kept alive by them; its counts stay in the totals."""

    def make():
        function = colour.function(lambda x: function and x)
        return cache.cache_result()(function)

    for number in range(50):
        cached = make()
        colour.call(cached, number)
        ref = weakref.ref(cached)
        del cached
    gc.collect()
    assert ref() is None
    stats = cache.get_stats()
    assert (0, 50, 50) == (stats["entries"], stats["misses"], stats["loads"])
    assert {} == cache._store._sections


def test_thousands_of_functions(cache):
    """A manager serves as many functions as a program has; each knows its own entries."""
    functions = [cache.cache_result()(lambda x, number=number: (number, x)) for number in range(2_000)]
    assert [(number, 7) for number in range(2_000)] == [function(7) for function in functions]
    assert 2_000 == cache.get_stats()["entries"]
    assert 1 == functions[5].info().entries


# --- Keys of one's own ---


def test_key_func_gets_the_call_as_it_is_made(cache, colour):
    """`key_func` sees the caller's arguments, and its string is the key."""
    seen = []

    def key_func(*args, **named):
        seen.append((args, named))
        return "the key"

    load = cache.cache_result(key_func=key_func)(colour.function(lambda x, y=2: (x, y)))
    assert [(1, 2), (1, 2)] == [colour.call(load, 1), colour.call(load, x=5)]
    assert [((1,), {}), ((), {"x": 5})] == seen


def test_key_func_must_return_a_string(cache, colour):
    """Anything else than a string is an error, not a key."""
    load = cache.cache_result(key_func=lambda x: x)(colour.function(lambda x: x))
    for value in (1, None, ["a"]):
        with pytest.raises(TypeError, match="key_func must return a string, not"):
            colour.call(load, value)
    with pytest.raises(ValueError, match="key_func must not return ''"):
        colour.call(load, "")


def test_key_func_on_a_method_spans_objects(cache, colour):
    """A key that a `key_func` made is the whole key: objects share it unless it says otherwise."""

    class Repository:
        @cache.cache_result(key_func=lambda self, x: f"{self.name}:{x}", tags=lambda x: (f"paint:{x}",))
        def load(self, x):
            return object()

        def __init__(self, name):
            self.name = name

    one, same, other = Repository("a"), Repository("a"), Repository("b")
    assert one.load(1) is same.load(1)
    assert one.load(1) is not other.load(1)
    before = one.load(1)
    cache.of(same.load).invalidate(1)
    assert one.load(1) is not before
    before = other.load(1)
    cache.invalidate("paint:1")
    assert other.load(1) is not before


# --- Tags ---


def test_tags_get_the_bound_arguments(cache, colour):
    """`tags` is called with all arguments, defaults filled in, positional and named as the function takes them."""
    seen = []

    def tags(*args, **named):
        seen.append((args, named))
        return ()

    load = cache.cache_result(tags=tags)(
        asynchronous_page if colour is Colour.ASYNCIO else lambda brand, page=1, *, size=10: brand
    )
    colour.call(load, size=5, brand="V")
    assert [(("V", 1), {"size": 5})] == seen


async def asynchronous_page(brand, page=1, *, size=10):
    return brand


@pytest.mark.parametrize("tags", ["brand", 5, (1,), (None,), ("",), [f"{n}" for n in range(17)]])
def test_bad_tags_are_refused(cache, tags):
    """Tags are at most sixteen non-empty strings: at decoration, and at the call if a function makes them."""
    with pytest.raises((TypeError, ValueError), match="tag"):
        cache.cache_result(tags=tags)
    load = cache.cache_result(tags=lambda: tags)(lambda: 1)
    with pytest.raises((TypeError, ValueError), match="tag"):
        load()


# --- Dirty units and the wrapper ---


def test_a_dirty_unit_elsewhere_costs_others_no_load(cache, colour):
    """While some unit of work has changed something, everybody else still hits."""
    loads = []
    load = cache.cache_result(tags=("paints",))(colour.function(loads.append))
    colour.call(load, 1)
    with unit_of_work():
        cache.invalidate("paints")
        other = Running(lambda: colour.call(load, 1))
        other.result()
    assert [1] == loads
    assert 1 == cache.get_stats()["hits"]


def test_hits_are_counted_by_threads_together(cache):
    """Hits need no lock, and under the GIL none is lost."""
    load = cache.cache_result()(lambda x: x)
    load(1)
    start = threading.Barrier(4)

    def hit():
        start.wait()
        for _ in range(5_000):
            load(1)

    for running in [Running(hit) for _ in range(4)]:
        running.result()
    assert 20_000 == load.info().hits


tenant = contextvars.ContextVar("tenant", default="house")
user = contextvars.ContextVar("user")


def as_one(context, function, *args):
    """Call in a copy of the context in which these variables are set."""

    def inside():
        for variable, value in context.items():
            variable.set(value)
        return function(*args)

    return contextvars.copy_context().run(inside)


@pytest.mark.parametrize("key_func", [None, lambda x: f"key{x}"], ids=["arguments", "key_func"])
def test_a_varying_function_keeps_one_value_for_each_state(cache, colour, key_func):
    """What the variables say is part of the call, with its type; unset is a state of its own."""
    loads = []
    load = cache.cache_result(vary=(tenant, user), key_func=key_func)(colour.function(lambda x: object()))
    states = [{}, {user: None}, {user: 1}, {user: True}, {user: "1"}, {tenant: "t"}, {tenant: "t", user: 1}]
    for state in (*states, *states):
        loads.append(as_one(state, colour.call, load, 7))
    assert loads[:7] == loads[7:]
    assert 7 == len(set(loads))
    assert as_one({tenant: "house"}, colour.call, load, 7) is loads[0]


def test_invalidating_a_call_drops_every_variant(cache, colour):
    """`fn.invalidate(42)` is for everybody, and for that call alone; other variants are dropped, too, while they load."""
    load = cache.cache_result(vary=[user])(colour.function(lambda x, y=0: object()))
    states = [{}, {user: 1}, {user: 2}]

    def ask(x):
        return [as_one(state, colour.call, load, x) for state in states]

    before, other = ask(42), ask(43)
    colour.call(load.invalidate, 42)
    after = ask(42)
    assert not set(before) & set(after)
    assert other == ask(43)
    assert after == ask(42)
    assert 6 == cache.get_stats()["entries"]
    assert 2 == len(cache._store.level._by_subject)
    cache.invalidate()
    assert {} == cache._store.level._by_subject


def test_extras_speak_of_the_variant_around_them(cache, colour):
    """`peek`, `put` and `refresh` are about the state in which they are called."""
    load = cache.cache_result(vary=[user])(colour.function(lambda: "loaded"))
    as_one({user: 1}, colour.call, load.put, "of one")
    assert "of one" == as_one({user: 1}, colour.call, load.peek)
    assert as_one({user: 2}, colour.call, load.peek) is None
    assert "loaded" == as_one({user: 2}, colour.call, load)


def test_a_variant_of_an_object_leaves_with_it(cache):
    """A context variable that holds an object is known by identity, and does not keep it alive."""

    class Session:
        pass

    load = cache.cache_result(vary=[user])(lambda: object())  # noqa: PLW0108 - a class has a signature of its own
    session = Session()
    assert as_one({user: session}, load) is as_one({user: session}, load)
    del session
    gc.collect()
    assert 0 == cache.get_stats()["entries"]


IGNORING = {
    "one of two": (lambda x, trace=None: object(), ("trace",)),
    "the first": (lambda trace, x: object(), ("trace",)),
    "named only": (lambda x, *, trace=None: object(), ("trace",)),
    "variadic": (lambda x, trace=None, *rest, **named: object(), ("trace",)),
    "by name of a double star": (lambda x, **named: object(), ("trace",)),
    "all": (lambda x=0, trace=None: object(), ("trace", "x")),
}


@pytest.mark.parametrize(("function", "ignore"), IGNORING.values(), ids=IGNORING)
def test_an_ignored_argument_is_no_part_of_the_call(cache, function, ignore):
    """Calls that differ in it are one call, those that differ in the others are not, unless these are ignored too."""
    load = cache.cache_result(ignore=ignore)(function)
    first = load(x=1, trace="a")
    assert first is load(x=1, trace="b") is load(trace=["unhashable"], x=1)
    assert (first is load(x=2, trace="a")) is ("x" in ignore)
    load.invalidate(x=1, trace="c")
    assert load(x=1, trace="a") is not first


def test_an_ignored_argument_of_a_method_is_found(cache, colour):
    """The object does not count when arguments are told apart."""

    class Repository:
        if colour is Colour.BLOCKING:

            @cache.cache_result(ignore=("session",))
            def load(self, session, x):
                return session, x

        else:

            @cache.cache_result(ignore=("session",))
            async def load(self, session, x):
                return session, x

    repository = Repository()
    assert ("s1", 1) == colour.call(repository.load, "s1", 1) == colour.call(repository.load, object(), 1)
    assert ("s3", 2) == colour.call(repository.load, "s3", 2)


@pytest.mark.parametrize("ignore", [("trase",), ("x", "nothing"), ("self",)])
def test_an_ignored_name_must_be_a_parameter(cache, ignore):
    """A name that the function does not take is a mistake, told at decoration."""
    with pytest.raises(ValueError, match=r"ignore names .* does not take; it takes 'trace', 'x'"):
        cache.cache_result(ignore=ignore)(lambda x, trace=None: x)


def test_the_laws_of_variants_catch_a_cache_that_drops_one_only(monkeypatch):
    """An invalidation that looks for the caller's own variant does not pass."""

    def only_the_plain_one(self, table, subject):
        entry = table.get(((("unset",),), subject))
        return [] if entry is None else [entry]

    monkeypatch.setattr(MemoryLevel, "about", only_the_plain_one)
    with pytest.raises(AssertionError):
        test_invalidating_a_call_drops_every_variant(CacheManager(), Colour.BLOCKING)
