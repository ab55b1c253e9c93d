"""mutmut gets to see what it would pass over."""

from types import ModuleType
from typing import Any

from tests.mutants.preparation import lay_open

SOURCE = '''
_MOST = 3
_WAIT = 1e-6
_MOSTLY = "constant"


class Node:
    """A node."""

    @property
    def uses(self) -> int:
        """At most three."""
        return min(self.hits, _MOST)

    hits = 9
'''


def run(source: str) -> Any:
    module = ModuleType("laid_open")
    exec(source, module.__dict__)
    return module


def test_a_getter_becomes_a_plain_method_and_stays_a_property():
    """Its body can be changed, and whoever reads the property sees the change."""
    laid_open = lay_open(SOURCE)

    assert "@property" not in laid_open
    assert 3 == run(SOURCE).Node().uses == run(laid_open).Node().uses
    assert 4 == run(laid_open.replace("min(self.hits, 3)", "min(self.hits, 4)")).Node().uses


def test_numbers_of_constants_stand_where_they_are_used():
    """The constants stay, and names that only begin like one are left alone."""
    laid_open = lay_open(SOURCE)

    assert "min(self.hits, 3)" in laid_open
    assert (3, 1e-6, "constant") == (run(laid_open)._MOST, run(laid_open)._WAIT, run(laid_open)._MOSTLY)
