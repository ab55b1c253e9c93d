"""An outage: down from the first instant of a span up to, but not at, its end."""

import pytest

from paintkit.testing import Outage


@pytest.mark.parametrize(
    ("at", "down"), [(9.9, False), (10.0, True), (19.9, True), (20.0, False), (29.9, False), (30.0, True)]
)
def test_is_down_within_its_spans(at, down):
    """The start belongs to a span, the end does not."""
    assert Outage(((10.0, 20.0), (30.0, 31.0))).is_down(at) is down


def test_none_at_all():
    """Nothing is ever down, and it is over at once."""
    outage = Outage(())

    assert not outage.is_down(0.0)
    assert 0.0 == outage.ends
