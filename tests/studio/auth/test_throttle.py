"""Laws of the brake on guessing."""

from paintkit.testing import FakeClock
from studio.auth.throttle import Throttle


def test_a_few_mistakes_are_forgiven():
    """Whoever stays below the limit never waits."""
    throttle = Throttle(tries=3, pause=60)
    throttle.failed("ann")
    throttle.failed("ann")
    assert 0 == throttle.wait("ann")


def test_then_there_is_a_pause_from_the_last_mistake():
    """At the limit the key waits its pause, and only that key."""
    with FakeClock() as clock:
        throttle = Throttle(tries=3, pause=60)
        for _ in range(3):
            throttle.failed("ann", "10.0.0.1")
            clock.advance(10)
        assert (50, 50, 0) == (throttle.wait("ann"), throttle.wait("bob", "10.0.0.1"), throttle.wait("bob"))
        clock.advance(50)
        assert 0 == throttle.wait("ann", "10.0.0.1")


def test_success_wipes_the_slate():
    """A login forgets the mistakes before it."""
    throttle = Throttle(tries=1, pause=60)
    throttle.failed("ann")
    throttle.succeeded("ann")
    assert 0 == throttle.wait("ann")
