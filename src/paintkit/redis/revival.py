"""What follows a fork: threads and connections stay with the parent, so who has some begins anew in the child."""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol

__all__ = ["revive_in_children"]


class _Revivable(Protocol):
    def _revive(self) -> object:
        """Begin anew; called in the child, where no other thread runs."""
        ...


def revive_in_children(subject: _Revivable) -> None:
    """Have an object revived in every child that is forked from now on; that does not keep it alive."""
    reference: weakref.ref[Any] = weakref.ref(subject)

    def revive() -> None:
        alive = reference()
        if alive is not None:
            alive._revive()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=revive)
