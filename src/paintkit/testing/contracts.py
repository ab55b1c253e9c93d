"""What every second level has to keep, as tests to inherit: give them your level, and pytest runs them.

```python
class TestMyLevel(CacheLevelContract):
    @pytest.fixture
    def level(self):
        return MyLevel("my://server")  # one process

    @pytest.fixture
    def other(self):
        return MyLevel("my://server")  # another process on the same server
```
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from paintkit import clock
from paintkit._runtime import Success
from paintkit.cache.levels import SAME, Place, SharedLevel, Sight
from paintkit.testing._processes import NOTHING, PATIENCE, Contract, Ears, Process, place_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["CacheLevelContract", "CacheLevelOutageContract"]


class CacheLevelContract(Contract):
    """The laws of a `SharedLevel` whose server can be reached.

    A subclass gives two fixtures, `level` and `other`: levels of two processes that share one server, on which nobody
    uses the namespaces `paintkit-contract` and `paintkit-contract-2`. Where time is virtual it overrides `pass_time`.
    """

    def test_a_look_at_nothing_leaves_a_version(self, here: Process, there: Process, colour: str) -> None:
        """Where nothing stands there is a version to fill against, the same for all who look, and a token for each mark."""

        async def scenario() -> None:
            first, second = await here.look(place_of("red", "a")), await there.look(place_of("red", "a"))
            assert first.value is None
            assert first.version is not None
            assert first.version == second.version
            assert len(first.tokens) == 3
            assert first.tokens == second.tokens

        self.run(colour, scenario())

    @pytest.mark.parametrize("value", [7, 0, "", "rot", None], ids=repr)
    def test_what_is_filled_is_found(self, here: Process, there: Process, colour: str, value: object) -> None:
        """A value comes back as it is, `None` and what is falsy included, with its version and what is left of its time."""

        async def scenario() -> None:
            version = await here.fill(
                place_of(), await here.look(place_of()), value, fresh=3_000.0, left=6_000.0
            )
            assert version is not None
            for process in (here, there):
                sight = await process.look(place_of())
                assert isinstance(sight.value, Success)
                assert sight.value.value == value
                assert type(sight.value.value) is type(value)
                assert sight.version == version
                assert 2_900.0 < sight.fresh <= 3_000.0
                assert 5_900.0 < sight.left <= 6_000.0
                assert abs(sight.seconds - 0.25) < 0.01

        self.run(colour, scenario())

    def test_a_value_without_end_stays(self, here: Process, colour: str) -> None:
        """An infinite time is one."""

        async def scenario() -> None:
            sight = await here.look(place_of())
            assert await here.fill(place_of(), sight, 7, fresh=float("inf"), left=float("inf"))
            sight = await here.look(place_of())
            assert isinstance(sight.value, Success)
            assert sight.fresh > 3600.0
            assert sight.left > 3600.0

        self.run(colour, scenario())

    def test_a_value_that_is_known_does_not_travel(self, here: Process, there: Process, colour: str) -> None:
        """Who holds the version that stands there is told so; who holds another one gets the value."""

        async def scenario() -> None:
            version = await here.load(place_of(), 7)
            sight = await there.look(place_of(), version)
            assert sight.value is SAME
            assert sight.version == version
            assert 30.0 < sight.left <= 60.0
            assert isinstance((await there.look(place_of(), b"another")).value, Success)

        self.run(colour, scenario())

    def test_of_two_loads_one_fills(self, here: Process, there: Process, colour: str) -> None:
        """Of two who saw the same version the first fills; the second is refused and changes nothing."""

        async def scenario() -> None:
            first, second = await here.look(place_of()), await there.look(place_of())
            assert await here.fill(place_of(), first, 1) is not None
            assert await there.fill(place_of(), second, 2) is None
            assert await there.value_at(place_of()) == 1

        self.run(colour, scenario())

    def test_a_value_can_be_replaced(self, here: Process, there: Process, colour: str) -> None:
        """Who saw the value that stands there may fill: it gets another version."""

        async def scenario() -> None:
            version = await here.load(place_of(), 1)
            newer = await there.fill(place_of(), await there.look(place_of(), version), 2)
            assert newer not in {None, version}
            assert await here.value_at(place_of()) == 2

        self.run(colour, scenario())

    def test_of_many_fills_at_once_one_counts(self, here: Process, colour: str) -> None:
        """The comparison and the fill are one step."""
        sights: list[Sight] = []
        versions: list[bytes | None] = []
        barrier = threading.Barrier(8)

        async def look() -> None:
            sights.append(await here.look(place_of()))

        def fill(number: int) -> None:
            async def scenario() -> None:
                versions.append(await here.fill(place_of(), sights[0], number))

            barrier.wait(PATIENCE)
            self.run(colour, scenario())

        self.run(colour, look())
        threads = [threading.Thread(target=fill, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(versions) == 8
        assert len([version for version in versions if version is not None]) == 1

    def test_a_dropped_place_is_empty(self, here: Process, there: Process, colour: str) -> None:
        """A drop removes the value for everybody, and the place can be filled again."""

        async def scenario() -> None:
            version = await here.load(place_of(), 1)
            await there.drop(place_of())
            sight = await here.look(place_of(), version)
            assert sight.value is None
            assert sight.version not in {None, version}
            assert await here.fill(place_of(), sight, 2) is not None
            assert await there.value_at(place_of()) == 2

        self.run(colour, scenario())

    @pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
    def test_a_load_from_before_a_drop_fills_nothing(
        self, here: Process, there: Process, colour: str, *, filled: bool
    ) -> None:
        """Who looked before the place was dropped is refused, also after others have looked again."""

        async def scenario() -> None:
            if filled:
                await there.load(place_of(), 0)
            sight = await here.look(place_of())
            await there.drop(place_of())
            assert await here.fill(place_of(), sight, 1) is None
            await there.look(place_of())
            assert await here.fill(place_of(), sight, 1) is None
            assert await there.value_at(place_of()) is NOTHING

        self.run(colour, scenario())

    def test_a_load_after_a_drop_fills(self, here: Process, there: Process, colour: str) -> None:
        """What a drop left is a version for those who look afterwards; dropped again, it is none any more."""

        async def scenario() -> None:
            await there.drop(place_of())
            early = await here.look(place_of())
            await there.drop(place_of())
            late = await here.look(place_of())
            assert early.version != late.version
            assert await here.fill(place_of(), early, 1) is None
            assert await here.fill(place_of(), late, 2) is not None

        self.run(colour, scenario())

    def test_a_dropped_mark_invalidates_what_bears_it(
        self, here: Process, there: Process, colour: str
    ) -> None:
        """A tag, a function, everything: what bears the mark is gone for all, what does not bear it stays."""

        async def scenario() -> None:
            red, blue = place_of("red", "warm"), place_of("blue", "cold")
            for mark, gone, stays in (
                ("t:warm", [red], [blue]),
                ("f:shop.price:1", [red, blue], []),
                ("all", [red, blue], []),
                ("t:other", [], [red, blue]),
            ):
                await here.load(red, 1)
                await here.load(blue, 2)
                await there.drop(mark)
                assert [await here.value_at(place) for place in gone] == [NOTHING] * len(gone), mark
                assert NOTHING not in [await here.value_at(place) for place in stays], mark

        self.run(colour, scenario())

    def test_a_load_from_before_a_dropped_mark_is_born_invalid(
        self, here: Process, there: Process, colour: str
    ) -> None:
        """A value that was loaded under an old token serves nobody; what is loaded afterwards does."""

        async def scenario() -> None:
            place = place_of("red", "warm")
            sight = await here.look(place)
            await there.drop("t:warm")
            await here.fill(place, sight, 1)
            assert await here.value_at(place) is NOTHING
            assert await there.value_at(place) is NOTHING
            assert await here.load(place, 2) is not None
            assert await there.value_at(place) == 2

        self.run(colour, scenario())

    def test_a_known_version_does_not_outlive_its_tokens(
        self, here: Process, there: Process, colour: str
    ) -> None:
        """Who holds the version that stands there is not told so if a mark was dropped."""

        async def scenario() -> None:
            place = place_of("red", "warm")
            version = await here.load(place, 1)
            await there.drop("t:warm")
            assert (await here.look(place, version)).value is None

        self.run(colour, scenario())

    def test_many_changes_at_once(self, here: Process, there: Process, colour: str) -> None:
        """A drop takes places and marks together, and none at all."""

        async def scenario() -> None:
            red, blue, green = place_of("red"), place_of("blue"), place_of("green", "cold")
            for place in (red, blue, green):
                await here.load(place, 1)
            await there.drop()
            assert await here.value_at(red) == 1
            await there.drop(red, "t:cold")
            assert await here.value_at(red) is NOTHING
            assert await here.value_at(blue) == 1
            assert await here.value_at(green) is NOTHING

        self.run(colour, scenario())

    def test_what_is_past_its_time_is_gone(self, here: Process, there: Process, colour: str) -> None:
        """After `left` there is nothing; between `fresh` and `left` there is a value that is not fresh."""
        before: list[Sight] = []

        async def fill() -> None:
            assert await here.fill(place_of("a"), await here.look(place_of("a")), 1, fresh=0.1, left=30.0)
            for _ in range(
                100
            ):  # a machine may pause for longer than that; it was seen if one time it does not
                assert await here.fill(
                    place_of("b"), await here.look(place_of("b")), 1, fresh=0.05, left=0.05
                )
                before[:] = [await there.look(place_of("b"))]
                if before[0].value is not None:
                    break
            assert isinstance(before[0].value, Success)

        async def look() -> None:
            stale = await there.look(place_of("a"))
            assert isinstance(stale.value, Success)
            assert stale.fresh < 0 < stale.left
            assert (await there.look(place_of("b"))).value is None
            assert await there.fill(place_of("b"), before[0], 2) is None

        self.run(colour, fill())
        self.pass_time(0.2)
        self.run(colour, look())

    def test_calls_of_one_digest_are_told_apart(self, here: Process, there: Process, colour: str) -> None:
        """A value is only found by the canonical form under which it was put there."""

        async def scenario() -> None:
            place = place_of()
            twin = Place(key=place.key, canonical=b"another call", marks=place.marks)
            version = await here.load(place, 1)
            assert (await there.look(twin, version)).value is None
            assert await there.load(twin, 2) is not None
            assert await there.value_at(twin) == 2
            assert await here.value_at(place) is NOTHING

        self.run(colour, scenario())

    def test_a_value_that_cannot_travel_is_left_out(self, here: Process, colour: str) -> None:
        """What is no value of the function, or cannot be written down, is no error and fills nothing."""

        async def scenario() -> None:
            assert await here.load(place_of(), threading.Lock()) is None
            assert await here.value_at(place_of()) is NOTHING

        self.run(colour, scenario())

    def test_others_hear_of_changes(self, here: Process, there: Process, colour: str) -> None:
        """Who drops is not told; the others are, of every mark and every place, in order."""

        async def scenario() -> None:
            await here.drop("t:warm", place_of())
            await here.drop("all")

        self.run(colour, scenario())
        self.eventually(lambda: len(there.ears.heard) == 3)
        assert there.ears.heard == ["t:warm", f"at {place_of().key}", "all"]
        assert here.ears.heard == []
        assert there.ears.gaps == 0

    def test_others_hear_of_a_fill_that_tells(self, here: Process, there: Process, colour: str) -> None:
        """A fill is nobody's business, unless it is to be told; a refused one never is."""

        async def scenario() -> None:
            early = await here.look(place_of())
            assert await here.fill(place_of(), early, 1)
            assert await here.fill(place_of(), early, 2, tell=True) is None
            assert await here.fill(place_of("blue"), await here.look(place_of("blue")), 2, tell=True)
            await here.drop("t:end")

        self.run(colour, scenario())
        self.eventually(lambda: "t:end" in there.ears.heard)
        assert there.ears.heard == [f"at {place_of('blue').key}", "t:end"]

    def test_namespaces_are_apart(
        self, level: SharedLevel, other: SharedLevel, here: Process, colour: str
    ) -> None:
        """What is called alike in another namespace is something else, and so is word of it."""
        second = f"{self.namespace}-2"
        one, two = self.joined(level, colour, second), self.joined(other, colour, second)

        async def scenario() -> None:
            await here.load(place_of(), 1)
            assert await one.value_at(place_of()) is NOTHING
            await one.load(place_of(), 2)
            await one.drop("all")
            assert await here.value_at(place_of()) == 1

        self.run(colour, scenario())
        self.eventually(lambda: two.ears.heard == ["all"])
        assert here.ears.heard == []

    def test_a_namespace_is_taken_once(self, level: SharedLevel, here: Process, colour: str) -> None:
        """Two caches of one process cannot be one; who leaves makes room and hears no more."""
        with pytest.raises(ValueError, match=self.namespace):
            level.join(self.namespace, Ears())
        here.membership.leave()
        again = self.joined(level, colour)
        assert again.membership is not here.membership

    def test_who_has_left_hears_no_more(
        self, level: SharedLevel, here: Process, there: Process, colour: str
    ) -> None:
        """Word goes to those who take part."""
        here.membership.leave()
        again = self.joined(level, colour)

        async def scenario() -> None:
            await there.drop("all")

        self.run(colour, scenario())
        self.eventually(lambda: again.ears.heard == ["all"])
        assert here.ears.heard == []

    def test_who_only_listens_hears(self, other: SharedLevel, here: Process, colour: str) -> None:
        """Word also comes to a cache that looks nothing up: one that keeps in memory what bears a tag."""
        quiet = Process(other, self.namespace, colour)
        quiet.membership.listen()
        self.eventually(lambda: clock.now() < quiet.membership.trust.until)

        async def scenario() -> None:
            await here.drop("t:warm")

        self.run(colour, scenario())
        self.eventually(lambda: "t:warm" in quiet.ears.heard)

    def test_a_link_that_is_up_is_trusted(self, here: Process) -> None:
        """Copies may be served without asking for a short time, which moves on by itself."""
        first = here.membership.trust.until
        assert first - clock.now() < 60.0
        self.pass_time(0.6)
        self.eventually(lambda: here.membership.trust.until > first)
        assert clock.now() - here.membership.trust.heard < 60.0

    def test_totals_are_numbers(self, level: SharedLevel, here: Process, colour: str) -> None:
        """`stats` counts."""

        async def scenario() -> None:
            await here.load(place_of(), 1)

        before = sum(level.stats().values())
        self.run(colour, scenario())
        assert sum(level.stats().values()) > before

    def test_a_closed_level_fails_no_call(self, level: SharedLevel, here: Process, colour: str) -> None:
        """After `close` nothing is found or filled, no copy is trusted, and no step raises."""

        async def scenario() -> None:
            sight = await here.look(place_of())
            level.close()
            assert await here.fill(place_of(), sight, 1) is None
            assert (await here.look(place_of())).version is None
            await here.drop("all")

        self.run(colour, scenario())
        assert here.membership.trust.until <= clock.now()


class CacheLevelOutageContract(Contract):
    """The laws of a `SharedLevel` whose server is away.

    A subclass gives `level` and `other` as for `CacheLevelContract`, and a fixture `outage`: a function that returns a
    block in which `level` cannot reach the server, while the server's memory stays. (`other` may be cut off, too.)
    """

    @contextlib.contextmanager
    def _away(self, process: Process, outage: Callable[[], AbstractContextManager[object]]) -> Any:
        with outage():
            # Else the trust from before might be taken for that afterwards.
            self.eventually(lambda: process.membership.trust.until <= clock.now())
            yield
        self.eventually(lambda: clock.now() < process.membership.trust.until)

    def test_without_a_server_no_step_fails(
        self, here: Process, colour: str, outage: Callable[[], AbstractContextManager[object]]
    ) -> None:
        """A look finds nothing and says so, a fill fills nothing, a drop is kept; copies are not trusted."""

        async def scenario() -> None:
            assert (await here.look(place_of())).version is None
            assert await here.fill(place_of(), Sight(b"version"), 1) is None
            await here.drop("t:warm", place_of())

        with self._away(here, outage):
            self.run(colour, scenario())
            assert here.membership.trust.until <= clock.now()

    def test_invalidations_are_repeated(
        self,
        here: Process,
        there: Process,
        colour: str,
        outage: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """What was dropped without a server is gone once it is back, before anything is trusted; others hear of it."""
        place, tagged = place_of("red"), place_of("blue", "warm")

        async def fill() -> None:
            await here.load(place, 1)
            await here.load(tagged, 2)

        async def drop() -> None:
            await here.drop(place)
            await here.drop("t:warm")
            assert (await here.look(place)).value is None

        async def look() -> None:
            assert await here.value_at(place) is NOTHING
            assert await here.value_at(tagged) is NOTHING

        self.run(colour, fill())
        with self._away(here, outage):
            self.run(colour, drop())
        self.run(colour, look())
        assert here.ears.gaps > 0
        self.eventually(lambda: there.ears.gaps > 0 or {"t:warm", f"at {place.key}"} <= set(there.ears.heard))

    def test_word_from_an_outage_comes_in_or_is_missed(
        self,
        here: Process,
        there: Process,
        colour: str,
        outage: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """What others change while the link is lost is heard before copies are trusted again, or told to be lost."""

        async def drop() -> None:
            await there.drop("t:warm")

        with self._away(here, outage):
            self.run(colour, drop())
        assert here.ears.gaps > 0 or "t:warm" in here.ears.heard
