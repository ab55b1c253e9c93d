"""Words of messages: numbers with their nouns."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: float, one: str, many: str | None = None) -> str:
    """Return a number with what it counts: `1 call`, `2 calls`; the plural takes an s, or is given."""
    if number == 1:
        return f"{number} {one}"
    return f"{number} {f'{one}s' if many is None else many}"
