"""Cells that a spreadsheet would run as a formula, made harmless and restored exactly.

A cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return gets one `'` in front. So does a cell that has
such quotes in front already, so that taking one away is right for every cell that has any.
"""

from __future__ import annotations

import re

__all__ = ["defuse", "restore"]

_LIVE = re.compile(r"'*[=+\-@\t\r]")
_DEFUSED = re.compile(r"'+[=+\-@\t\r]")


def defuse(cell: str) -> str:
    """Return the cell as text that no spreadsheet runs.

    Example:
        >>> defuse("=1+1"), defuse("'Ardcoat")
        ("'=1+1", "'Ardcoat")
    """
    return f"'{cell}" if _LIVE.match(cell) else cell


def restore(cell: str) -> str:
    """Return the cell that `defuse` was given.

    Example:
        >>> restore("'=1+1"), restore("'Ardcoat")
        ('=1+1', "'Ardcoat")
    """
    return cell[1:] if _DEFUSED.match(cell) else cell
