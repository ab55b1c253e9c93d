"""Laws of harmless cells."""

from hypothesis import example, given
from hypothesis import strategies as st

from studio.transfer.cells import defuse, restore

LIVE = tuple("=+-@\t\r")


@given(st.text() | st.text(alphabet="'=+-@\t\ra"))
@example("'=1")
@example("''=1")
def test_a_cell_comes_back_exactly(cell):
    """What is defused and restored is what it was, quotes in front included; and it is harmless in between."""
    assert not defuse(cell).startswith(LIVE)
    assert cell == restore(defuse(cell))


@given(st.text())
def test_harmless_cells_stay(cell):
    """A cell that no spreadsheet runs is not touched, a name that begins with an apostrophe included."""
    if not cell.lstrip("'").startswith(LIVE):
        assert (cell, cell) == (defuse(cell), restore(cell))
