"""Long-lived parts of a program (stores, clients, hashers) by name: built when first needed, closed in reverse order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypedDict, TypeVar, cast, overload

from paintkit import _arguments, ambient, clock, observations
from paintkit._runtime import Failure, Outcome, Success
from paintkit.errors import ComponentCycleError, DeadlineExceededError, UnknownComponentError

if TYPE_CHECKING:
    from types import TracebackType

    from paintkit.telemetry import Metric

__all__ = ["ComponentManager", "ComponentManagerStats"]

T = TypeVar("T")
State = Literal["registered", "building", "built"]

_ABSENT: Final[Any] = object()


class ComponentManagerStats(TypedDict):
    """What a `ComponentManager` has done since it was made.

    Attributes:
        components: The state of each component by name: registered, building or built.
        builds: Components built.
        build_failures: Factories that raised.
        closes: Components closed.
        close_failures: Components whose closing raised.
    """

    components: dict[str, State]
    builds: int
    build_failures: int
    closes: int
    close_failures: int


class _Build:
    """One run of a factory by one thread, inside `outer`, the build that needs it; `outcome` comes at its end."""

    __slots__ = ("component", "is_over", "outcome", "outer", "thread", "traceback")

    def __init__(self, component: _Component, thread: int, outer: _Build | None) -> None:
        self.component = component
        self.thread = thread
        self.outer = outer
        self.is_over = False
        #: What the factory returned or raised; `None` until then, and if it was interrupted.
        self.outcome: Outcome[Any] | None = None
        self.traceback: TracebackType | None = None

    def end(self, outcome: Outcome[Any] | None) -> None:
        self.is_over = True
        self.outcome = outcome
        if isinstance(outcome, Failure):
            self.traceback = outcome.error.__traceback__

    def result(self) -> Any:
        """Return or raise the outcome; each of several threads raises it with the factory's traceback alone."""
        outcome = cast("Outcome[Any]", self.outcome)
        if isinstance(outcome, Failure):
            outcome.error.with_traceback(self.traceback)
        try:
            return outcome.unwrap()
        finally:
            # An error's traceback must not lead back to the error: only the collector could free the two.
            del self, outcome

    def names_inwards_to(self, innermost: _Build) -> list[str]:
        """The names from this build to the `innermost` one of the same thread."""
        names = []
        build: _Build | None = innermost
        while build is not None and build is not self:
            names.append(build.component.name)
            build = build.outer
        return [self.component.name, *reversed(names)]


class _Component:
    """What is registered under one name, and the instance while there is one."""

    __slots__ = ("build", "close", "factory", "instance", "name")

    def __init__(self, name: str, factory: Callable[[], Any], close: Callable[[Any], object] | None) -> None:
        self.name = name
        self.factory = factory
        self.close = close
        self.build: _Build | None = None  # the one that runs, or the one that succeeded
        self.instance: Any = _ABSENT

    @property
    def state(self) -> State:
        if self.instance is not _ABSENT:
            return "built"
        return "registered" if self.build is None else "building"


class ComponentManager:
    """Builds each registered component once, on demand, and closes what was built in reverse order.

    A factory gets other components by calling `get` on the manager. It runs outside the unit of work and the deadline of
    whoever asked first, for the component outlives both. Threads that ask for a component while it is being built wait
    for that build and share what comes of it; a failure is not kept, so the next `get` tries again. Components that need
    each other in a circle are an error that names the circle, also when several threads close it together.

    All methods may be called from any thread and from factories.

    Example:
        >>> with ComponentManager() as components:
        ...     components.register("path", lambda: "swatches")
        ...     components.register("store", lambda: {"at": components.get("path")}, close=dict.clear)
        ...     components.get("store", dict)["at"]
        'swatches'
    """

    def __init__(self) -> None:
        # Guards everything below; waited on for the end of a build. No factory and no close runs under it.
        self._changed = threading.Condition()
        self._components: dict[str, _Component] = {}
        self._built: list[_Component] = []  # in the order in which their factories returned
        self._innermost: dict[int, _Build] = {}  # by the thread that runs it
        self._awaited: dict[int, _Build] = {}  # by the thread that waits for it
        self._builds = self._build_failures = self._closes = self._close_failures = 0

    def register(
        self,
        name: str,
        factory: Callable[[], Any],
        *,
        close: Callable[[Any], object] | None = None,
        replace: bool = False,
    ) -> None:
        """Say how a component is built, without building it.

        Args:
            name: What it is asked for by.
            factory: Called without arguments, in the thread of the first `get`; a plain function or a class.
            close: Called with the component to end it. Default: the component's own method `close()`, if it has one.
            replace: Take the place of an earlier registration. What that one has built is closed by `close()` as
                always, for others may still be using it.

        Raises:
            TypeError: An argument is of the wrong kind, or `factory` is `async def` or a generator function.
            ValueError: `name` is empty, or already registered and `replace` is not set.
        """
        _arguments.label("name", name)
        _arguments.flag("replace", replace)
        _arguments.callback("factory", factory)
        if close is not None:
            _arguments.callback("close", close)
        with self._changed:
            if name in self._components and not replace:
                raise ValueError(
                    f"component {name!r} is already registered; pass replace=True to take its place"
                )
            self._components[name] = _Component(name, factory, close)

    @overload
    def get(self, name: str) -> Any: ...

    @overload
    def get(self, name: str, kind: type[T]) -> T: ...

    def get(self, name: str, kind: type[Any] = object) -> Any:
        """Return the component of that name, building it if it is not there yet.

        Args:
            name: As registered.
            kind: The class that the caller relies on; gives the result its type.

        Raises:
            UnknownComponentError: Nothing is registered under `name`; the message lists what is spelled alike.
            ComponentCycleError: Building it needs, by way of others, itself; the message shows the path.
            DeadlineExceededError: The ambient deadline was over before another thread had built it.
            TypeError: The component is no instance of `kind`.
            Exception: Whatever the factory raised, for this caller and all who waited with it.
        """
        try:
            component = self._components.get(name)
        except TypeError:  # not even hashable
            component = None
        if component is None:
            raise UnknownComponentError(self._unknown(_arguments.label("name", name)))
        instance = component.instance
        if instance is _ABSENT:
            instance = self._provide(component)
        if not isinstance(instance, kind):
            raise TypeError(
                f"component {name!r} is a {type(instance).__qualname__}, not a {kind.__qualname__}"
            )
        return instance

    def close(self) -> None:
        """Close all components that are built, the last built first; a later `get` builds anew.

        A component that cannot be closed does not keep the others open. What another thread is building at this moment
        is not waited for; a second `close()` closes it.

        Raises:
            ExceptionGroup: What the closings raised, each with a note of its component, once all were tried.
        """
        errors: list[Exception] = []
        while (pair := self._take_last()) is not None:
            try:
                _end(*pair)
            except Exception as error:  # noqa: BLE001 - raised in a group once the others are closed
                error.add_note(f"while closing component {pair[0].name!r}")
                errors.append(error)
                observations.emit("component_manager.close_failed", pair[0].name, error=error)
        with self._changed:
            self._close_failures += len(errors)
        if errors:
            raise ExceptionGroup("components could not be closed", errors)

    def get_stats(self) -> ComponentManagerStats:
        """Return the state of every component and the totals, as plain data."""
        with self._changed:
            return {
                "components": {name: component.state for name, component in self._components.items()},
                "builds": self._builds,
                "build_failures": self._build_failures,
                "closes": self._closes,
                "close_failures": self._close_failures,
            }

    def telemetry(self) -> Iterable[Metric]:
        """Return the totals, for exporters; see `paintkit.telemetry`."""
        from paintkit import _catalogue

        return _catalogue.COMPONENTS.read("components", self.get_stats())

    def __repr__(self) -> str:
        states = [component.state for component in list(self._components.values())]
        return f"<ComponentManager: {states.count('built')} of {len(states)} built>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def _provide(self, component: _Component) -> Any:
        build = self._build_of(component, threading.get_ident())
        try:
            if not build.is_over:
                self._run(build)
            return build.result()
        finally:
            del build  # see `_Build.result`

    def _build_of(self, component: _Component, thread: int) -> _Build:
        """Return the build that made or failed to make the component, or one that is now this thread's to run."""
        with self._changed:
            while (build := component.build) is not None:
                if not build.is_over:
                    self._refuse_circle(build, thread)
                    self._wait_for(build, thread)
                if build.outcome is not None:
                    return build  # otherwise it was interrupted, and the first who finds that takes over
            build = component.build = _Build(component, thread, self._innermost.get(thread))
            self._innermost[thread] = build
            return build

    def _run(self, build: _Build) -> None:
        began = clock.now()
        outcome: Outcome[Any] | None = None
        try:
            outcome = _outcome_of(build.component)
        finally:
            self._finish(build, outcome)
        try:
            if isinstance(outcome, Failure):
                observations.emit("component_manager.build_failed", build.component.name, error=outcome.error)
            else:
                observations.emit(
                    "component_manager.built", build.component.name, seconds=clock.now() - began
                )
        finally:
            del build, outcome  # see `_Build.result`

    def _finish(self, build: _Build, outcome: Outcome[Any] | None) -> None:
        component = build.component
        with self._changed:
            build.end(outcome)
            if isinstance(outcome, Success):
                component.instance = outcome.value
                self._built.append(component)
                self._builds += 1
            else:
                component.build = None
                self._build_failures += 1
            if build.outer is None:
                del self._innermost[build.thread]
            else:
                self._innermost[build.thread] = build.outer
            self._changed.notify_all()

    def _wait_for(self, build: _Build, thread: int) -> None:
        self._awaited[thread] = build
        try:
            while not build.is_over:
                rest = ambient.remaining()
                if rest is not None and rest <= 0:
                    raise DeadlineExceededError(
                        f"the deadline was over while another thread built component {build.component.name!r}"
                    )
                clock.wait(self._changed, rest)
        finally:
            del self._awaited[thread]

    def _refuse_circle(self, wanted: _Build, thread: int) -> None:
        """Follow who waits for whom: if the way leads back to this thread, waiting would never end."""
        path: list[str] = []
        build = wanted
        while True:
            path += build.names_inwards_to(self._innermost[build.thread])
            if build.thread == thread:
                raise ComponentCycleError(
                    f"components need each other in a circle: {' → '.join([*path, path[0]])}"
                )
            awaited = self._awaited.get(build.thread)
            if awaited is None or awaited.is_over:
                return
            build = awaited

    def _take_last(self) -> tuple[_Component, Any] | None:
        with self._changed:
            if not self._built:
                return None
            component = self._built.pop()
            instance, component.instance, component.build = component.instance, _ABSENT, None
            self._closes += 1
            return component, instance

    def _unknown(self, name: str) -> str:
        import difflib

        names = list(self._components)
        near = difflib.get_close_matches(name, names) or sorted(names)
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "nothing is registered yet"
        return f"no component is registered as {name!r}; {hint}"


def _outcome_of(component: _Component) -> Outcome[Any]:
    try:
        instance = ambient.detached().run(component.factory)
        return Success(_arguments.settled(f"the factory of component {component.name!r}", instance))
    except Exception as error:  # noqa: BLE001 - the outcome is the value, for all who wait
        return Failure(error)


def _end(component: _Component, instance: Any) -> None:
    if component.close is not None:
        result = component.close(instance)
    else:
        close = getattr(instance, "close", None)
        result = close() if callable(close) else None
    _arguments.settled(f"closing component {component.name!r}", result)
