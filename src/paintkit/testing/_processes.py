"""What the contracts of second levels share: two processes that take part in the level under test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from paintkit import clock
from paintkit._runtime import Success, drive
from paintkit.cache.levels import Codec, Membership, Place, Port, SharedLevel, Sight

__all__ = ["NOTHING", "PATIENCE", "Contract", "Ears", "Process", "place_of"]

#: Real seconds that a level may take for what takes none.
PATIENCE = 30.0


def _counts(_paint: str) -> int | str | None:
    """Stand for the cached functions of these tests."""
    return 0


class Ears:
    """A cache that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.gaps = 0

    def changed(self, mark: str, /) -> None:
        self.heard.append(mark)

    def changed_at(self, key: str, /) -> None:
        self.heard.append(f"at {key}")

    def gap(self) -> None:
        self.gaps += 1


class Process:
    """One process's part in the level under test."""

    def __init__(self, level: SharedLevel, namespace: str, colour: str) -> None:
        self.ears = Ears()
        self.codec: Codec = level.codec(_counts)
        self.membership: Membership = level.join(namespace, self.ears)
        self._colour = colour

    @property
    def port(self) -> Port:
        """The way to the level in the colour of the test."""
        return self.membership.blocking if self._colour == "blocking" else self.membership.asyncio

    async def look(self, place: Place, known: bytes | None = None) -> Sight:
        """Look at a place."""
        return await self.port.look(place, self.codec, known)

    async def fill(
        self,
        place: Place,
        sight: Sight,
        value: object,
        *,
        fresh: float = 60.0,
        left: float = 60.0,
        tell: bool = False,
    ) -> bytes | None:
        """Fill a place."""
        return await self.port.fill(
            place, self.codec, sight, value, fresh=fresh, left=left, seconds=0.25, tell=tell
        )

    async def load(self, place: Place, value: object) -> bytes | None:
        """Look and fill, as a load does."""
        return await self.fill(place, await self.look(place), value)

    async def drop(self, *changes: Place | str) -> None:
        """Invalidate."""
        await self.port.drop(changes)

    async def value_at(self, place: Place) -> object:
        """Return what a look finds: the outcome's value, or the class of nothing."""
        found = (await self.look(place)).value
        return found.value if isinstance(found, Success) else found.__class__


def place_of(name: str = "red", *tags: str) -> Place:
    return Place(
        key=f"shop.price:1:{name}",
        canonical=f"canonical {name}".encode(),
        marks=("all", "f:shop.price:1", *(f"t:{tag}" for tag in tags)),
    )


NOTHING = type(None)


class Contract:
    """What both contracts need; a subclass for a level gives the fixtures `level` and `other`."""

    namespace = "paintkit-contract"

    @pytest.fixture(params=["blocking", "asyncio"])
    def colour(self, request: pytest.FixtureRequest) -> str:
        """Which port is used."""
        return str(request.param)

    def pass_time(self, seconds: float) -> None:
        """Let time pass on the level's clock; overridden where that is a virtual one."""
        time.sleep(seconds)

    def run(self, colour: str, scenario: Coroutine[Any, Any, None]) -> None:
        """Run a scenario: in the blocking colour nothing in it suspends."""
        if colour == "blocking":
            drive(scenario)
        else:
            asyncio.run(scenario)

    def eventually(self, condition: Callable[[], bool]) -> None:
        """Wait until something has come about, over whatever link."""
        due = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < due, "it never happened"
            time.sleep(0.002)

    def joined(self, level: SharedLevel, colour: str, namespace: str | None = None) -> Process:
        """Take part, with the link up."""
        process = Process(level, namespace or self.namespace, colour)

        async def look() -> None:
            await process.look(place_of("link"))

        self.run(colour, look())
        self.eventually(lambda: clock.now() < process.membership.trust.until)
        process.ears.gaps = 0  # what was said before the link was up may count as missed
        return process

    @pytest.fixture
    def here(self, level: SharedLevel, colour: str) -> Process:
        """The process under test."""
        return self.joined(level, colour)

    @pytest.fixture
    def there(self, other: SharedLevel, colour: str) -> Process:
        """Another one."""
        return self.joined(other, colour)
