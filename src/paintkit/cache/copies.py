"""Copies: whether callers share a value, or get one each that they may change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from paintkit import _arguments

__all__ = ["Copier", "CopyPolicy", "copier"]

CopyPolicy = Literal["share", "shallow", "deep"]
Copier = Callable[[Any], Any]


def copier(choice: object) -> Copier | None:
    """Return what copies a value on its way in and out; `None` if it is shared.

    Raises:
        TypeError: It is no string.
        ValueError: There is no such choice.
    """
    chosen = _arguments.choice("copy", choice, ("share", "shallow", "deep"))
    if chosen == "share":
        return None
    import copy  # what few programs ask for, none should pay for

    return copy.copy if chosen == "shallow" else copy.deepcopy
