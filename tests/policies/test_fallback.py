"""Fallback: another answer for the failures that were named, and for no others."""

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from paintkit import BulkheadFullError, RejectedError, bulkhead, fallback, observe
from paintkit.testing import scripted
from tests.colours import Colour


class TestAnswers:
    def test_a_success_is_passed(self, colour):
        """With its arguments and results."""
        assert "done" == colour.call(fallback(None, on=OSError)(call := colour.script("done")), 1, two=2)
        assert [((1,), {"two": 2})] == call.calls

    @pytest.mark.parametrize("value", [None, 0, "", [], len, OSError, OSError()], ids=repr)
    def test_a_value_is_returned_as_it_is(self, colour, value):
        """The same object, also if it could be called or raised."""
        assert value is colour.protect(fallback(value, on=OSError), colour.script(OSError))

    def test_a_handler_sees_the_exception(self, colour):
        """The same object; its result is the answer."""
        error = OSError()
        assert (error,) == colour.protect(fallback(handler=lambda e: (e,), on=OSError), colour.script(error))

    def test_a_handler_may_be_a_coroutine_function(self):
        """For a coroutine function."""

        async def handler(error: Exception) -> str:
            await asyncio.sleep(0)
            return f"instead of {error}"

        policy = fallback(handler=handler, on=OSError)
        assert "instead of x" == Colour.ASYNCIO.protect(policy, Colour.ASYNCIO.script(OSError("x")))

    @pytest.mark.parametrize(
        "on",
        [OSError, (KeyError, OSError), lambda error: isinstance(error, OSError)],
        ids=["type", "types", "predicate"],
    )
    def test_only_what_was_named_is_answered(self, colour, on):
        """Any other failure is the same object."""
        error, policy = ValueError(), fallback("instead", on=on)

        assert "instead" == colour.protect(policy, colour.script(ConnectionError))
        with pytest.raises(ValueError) as caught:
            colour.protect(policy, colour.script(error))
        assert error is caught.value

    @pytest.mark.parametrize("escape", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
    def test_what_is_no_exception_passes(self, colour, escape):
        """Whatever a predicate says."""
        with pytest.raises(escape):
            colour.protect(fallback("instead", on=lambda _: True), colour.script(escape))

    def test_an_error_of_the_handler_has_the_original_as_its_context(self, colour):
        """Nothing is hidden."""
        original = OSError()
        with pytest.raises(ZeroDivisionError) as caught:
            colour.protect(fallback(handler=lambda _: 1 / 0, on=OSError), colour.script(original))
        assert original is caught.value.__context__

    def test_refusals_are_failures_like_others(self, colour):
        """The usual case: an answer when a policy refuses."""
        policy = bulkhead(1)
        with policy.hold():
            call = fallback("instead", on=RejectedError)(policy(colour.script()))
            assert "instead" == colour.call(call)
            with pytest.raises(BulkheadFullError):
                colour.protect(policy, colour.script())


class TestGenerators:
    @staticmethod
    def read(colour: Colour, policy: Any, *items: object) -> list[object]:
        """Read a protected generator of scripted items to its end."""
        script = scripted(*items)

        @policy
        def generate() -> Iterator[object]:
            for _ in items:
                yield script()

        @policy
        async def agenerate() -> AsyncIterator[object]:
            for _ in items:
                yield script()

        async def collect() -> list[object]:
            return [item async for item in agenerate()]

        return list(generate()) if colour is Colour.BLOCKING else colour.call(collect)

    def test_before_the_first_item_the_fallbacks_items_come_instead(self, colour):
        """From a value or a handler."""
        assert [1, 2] == self.read(colour, fallback([1, 2], on=OSError), OSError)
        assert ["x"] == self.read(colour, fallback(handler=lambda e: [str(e)], on=OSError), OSError("x"))
        assert [] == self.read(colour, fallback((), on=OSError), OSError)
        assert ["a", "b"] == self.read(colour, fallback([1], on=OSError), "a", "b")
        assert [] == self.read(colour, fallback([1], on=OSError))

    def test_after_the_first_item_failures_pass(self, colour):
        """Half of one answer and half of another would be none."""
        with pytest.raises(OSError):
            self.read(colour, fallback([1, 2], on=OSError), "a", OSError)

    def test_other_failures_pass(self, colour):
        """As they are."""
        with pytest.raises(ValueError):
            self.read(colour, fallback([1, 2], on=OSError), ValueError)

    def test_an_asynchronous_generator_may_fall_back_on_another(self):
        """From a handler of either kind."""

        async def others(error: Exception) -> AsyncIterator[str]:
            yield "other"

        async def awaited(error: Exception) -> list[str]:
            return ["awaited"]

        assert ["other"] == self.read_async(fallback(handler=others, on=OSError))
        assert ["awaited"] == self.read_async(fallback(handler=awaited, on=OSError))

    @staticmethod
    def read_async(policy: Any) -> list[object]:
        @policy
        async def agenerate() -> AsyncIterator[object]:
            raise OSError
            yield

        async def collect() -> list[object]:
            return [item async for item in agenerate()]

        return asyncio.run(collect())


class TestRefusals:
    def test_a_coroutine_handler_of_a_blocking_function(self):
        """Nothing could await it; nor for a generator."""

        async def handler(error: Exception) -> list[str]:
            return []

        def function() -> list[str]:
            return []

        def generator() -> Iterator[str]:
            yield ""

        for fn in (function, generator, functools.partial(function)):
            with pytest.raises(TypeError, match="async def"):
                fallback(handler=handler, on=OSError)(fn)

    @pytest.mark.parametrize(
        ("args", "options", "error", "named"),
        [
            ((), {"on": OSError}, ValueError, "value or handler"),
            ((1,), {"on": OSError, "handler": len}, ValueError, "not both"),
            ((1,), {}, TypeError, "on"),
            ((1,), {"on": ()}, ValueError, "on"),
            ((1,), {"on": (OSError, 3)}, TypeError, "on"),
            ((1,), {"on": BaseException}, ValueError, "on"),
            ((1,), {"on": None}, TypeError, "on"),
            ((), {"on": OSError, "handler": 3}, TypeError, "handler"),
            ((1,), {"on": OSError, "name": ""}, ValueError, "name"),
            ((1,), {"on": OSError, "name": 3}, TypeError, "name"),
        ],
    )
    def test_arguments_are_checked(self, args, options, error, named):
        """At construction, by name."""
        with pytest.raises(error, match=named):
            fallback(*args, **options)


class TestObservations:
    def test_every_use_is_told(self, colour):
        """With the failure, under the function's name; a success is silent."""
        seen, error = [], OSError()

        def mine() -> None:
            raise error

        function = colour.function(mine)
        with observe(seen.append):
            colour.protect(fallback(1, on=OSError), colour.script("done"))
            assert [] == seen
            colour.protect(fallback(1, on=OSError), function)
            colour.call(fallback(1, on=OSError)(function))
            colour.protect(fallback(1, on=OSError, name="empty"), function)

        name = f"{mine.__module__}.{mine.__qualname__}"
        assert [name, name, "empty"] == [one.source for one in seen]
        assert [("fallback.used", {"error": error})] * 3 == [(one.kind, one.details) for one in seen]

    def test_an_observer_that_raises_breaks_nothing(self, colour, caplog):
        """The answer comes all the same."""
        with observe(scripted(forever=ZeroDivisionError)):
            assert 1 == colour.protect(fallback(1, on=OSError), colour.script(OSError))
        assert "ZeroDivisionError" in caplog.text
