"""The measurement of the outbox measures what it says."""

import re

import pytest

from paintkit.sqlalchemy.outbox_store import Store
from tests.benchmarks import outbox
from tests.benchmarks.course import UnfairError


def test_every_line_has_its_rate(tmp_path):
    """On a small scale: the baseline first, and its ratio is 1."""
    lines = list(outbox.lines(f"sqlite:///{tmp_path / 'paints.db'}", 20, 5))
    assert 11 == len(lines)
    assert all(re.search(r"\d+ events/s +\d+\.\d\d", line) for line in lines)
    assert "1.00" in lines[0]


def test_events_that_nobody_handles_are_not_measured(tmp_path, monkeypatch):
    """The planted fault: a relay that passes its events over is fast, and no contender."""
    monkeypatch.setattr(Store, "first", lambda self, session, handler, event_ids: set())
    with pytest.raises(UnfairError, match="0 effects of 20"):
        list(outbox.lines(f"sqlite:///{tmp_path / 'paints.db'}", 20, 5))
