"""Generators handed on: the reader cannot tell them from their own, whatever it sends, throws or closes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paintkit import backoff, bulkhead, circuit_breaker, fallback, pipeline, rate_limit, retry, timeout

POLICIES: dict[str, Callable[[], Any]] = {
    "retry": lambda: retry(on=OSError, attempts=2, backoff=backoff.constant(0)),
    "fallback": lambda: fallback([0], on=KeyError),
    "bulkhead": lambda: bulkhead(1),
    "rate limit": lambda: rate_limit(10**6),
    "breaker": lambda: circuit_breaker(failure_threshold=10**6),
    "timeout": lambda: timeout(1000.0, cooperative=True),
    "pipeline": lambda: pipeline(
        fallback([0], on=KeyError), retry(on=OSError), bulkhead(1), timeout(9, cooperative=True)
    ),
}


class Log(list[object]):
    """What a generator saw of its reader."""


def echo(log: Log, ending: str) -> Iterator[object]:
    """Yield what was sent and thrown; end as told."""
    item: object = "first"
    try:
        while True:
            try:
                item = yield item
                log.append(("sent", item))
            except ValueError as error:
                log.append(("thrown", error.args))
                item = "caught"
            if item == "return":
                return
            if item == "raise":
                raise LookupError(ending)
    finally:
        log.append("closed")


def echo_and_return(log: Log, ending: str) -> Iterator[object]:
    yield from echo(log, ending)
    return ending


async def aecho(log: Log, ending: str) -> AsyncIterator[object]:
    """The same for asynchronous readers."""
    item: object = "first"
    try:
        while True:
            try:
                item = yield item
                log.append(("sent", item))
            except ValueError as error:
                log.append(("thrown", error.args))
                item = "caught"
            if item == "return":
                return
            if item == "raise":
                raise LookupError(ending)
    finally:
        await asyncio.sleep(0)
        log.append("closed")


steps = st.lists(
    st.sampled_from(["next", "send", "throw", "throw unknown", "return", "raise", "close"]), max_size=8
)


def drive(generator: Any, script: list[str]) -> list[object]:
    """Do to a generator what a script says, and write down what it answers."""
    answers: list[object] = []
    for number, step in enumerate(script):
        try:
            if step == "next" or not answers:
                answers.append(next(generator))
            elif step == "throw":
                answers.append(generator.throw(ValueError(number)))
            elif step == "throw unknown":
                answers.append(generator.throw(ArithmeticError(number)))
            elif step == "close":
                answers.append(generator.close())
            else:
                answers.append(generator.send(step if step != "send" else number))
        except StopIteration as stop:
            answers.append(("returned", stop.value))
        except Exception as error:
            answers.append((type(error), error.args))
    generator.close()
    return answers


async def adrive(generator: Any, script: list[str]) -> list[object]:
    """The same for an asynchronous generator."""
    answers: list[object] = []
    for number, step in enumerate(script):
        try:
            if step == "next" or not answers:
                answers.append(await anext(generator))
            elif step == "throw":
                answers.append(await generator.athrow(ValueError(number)))
            elif step == "throw unknown":
                answers.append(await generator.athrow(ArithmeticError(number)))
            elif step == "close":
                answers.append(await generator.aclose())
            else:
                answers.append(await generator.asend(step if step != "send" else number))
        except StopAsyncIteration:
            answers.append("ended")
        except Exception as error:
            answers.append((type(error), error.args))
    await generator.aclose()
    return answers


@pytest.mark.parametrize("kind", POLICIES)
@given(steps)
def test_a_reader_cannot_tell_them_apart(kind, script):
    """`next`, `send`, `throw`, `close` and the result are those of the generator itself."""
    logs = Log(), Log()
    expected = drive(echo_and_return(logs[0], "result"), script)

    assert expected == drive(POLICIES[kind]()(echo_and_return)(logs[1], "result"), script)
    assert logs[0] == logs[1]


@pytest.mark.parametrize("kind", POLICIES)
@given(steps)
def test_an_asynchronous_reader_cannot_either(kind, script):
    """The same with `asend`, `athrow` and `aclose`."""
    logs = Log(), Log()

    async def main() -> None:
        expected = await adrive(aecho(logs[0], "end"), script)
        assert expected == await adrive(POLICIES[kind]()(aecho)(logs[1], "end"), script)
        assert logs[0] == logs[1]

    asyncio.run(main())


@pytest.mark.parametrize("kind", POLICIES)
def test_the_law_catches_one_that_forgets_to_close(kind):
    """A wrapper that iterates plainly hands on neither what is sent nor what is thrown."""

    def careless(log: Log, ending: str) -> Iterator[object]:
        yield from list(POLICIES[kind]()(lambda: iter("first"))())

    logs = Log(), Log()
    script = ["next", "send", "throw"]
    assert drive(echo(logs[0], ""), script) != drive(careless(logs[1], ""), script)


@pytest.mark.parametrize("kind", POLICIES)
def test_a_generator_that_will_not_close_is_an_error(kind):
    """As Python has it, and the policy is left clean."""

    def stubborn() -> Iterator[int]:
        with contextlib.suppress(GeneratorExit):
            yield 1
        yield 2

    policy = POLICIES[kind]()
    reader = policy(stubborn)()
    assert 1 == next(reader)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        reader.close()
    if kind == "bulkhead":
        assert 0 == policy.metrics().running


def test_cleaning_up_may_be_asynchronous():
    """A reader that breaks off leaves nothing open, once it has closed its reader."""
    for kind, make in POLICIES.items():
        log = Log()

        async def main(make: Any = make, log: Log = log) -> None:
            async with contextlib.aclosing(make()(aecho)(log, "")) as reader:
                async for _ in reader:
                    break

        asyncio.run(main())
        assert ["closed"] == log, kind
