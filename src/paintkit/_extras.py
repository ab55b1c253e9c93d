"""Extras: what a part of paintkit needs beside paintkit, told where it is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Extra"]


class Extra:
    """A block of imports that one extra brings: if one of them is not installed, a note at the error names the extra.

    Args:
        name: The extra's.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("paintkit"):
            note = f"pip install 'paintkit[{self._name}]'"
            if note not in getattr(error, "__notes__", ()):  # blocks nest
                error.add_note(note)
