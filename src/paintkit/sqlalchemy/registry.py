"""The managers that are in use: for the free functions, and for forked processes."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paintkit.sqlalchemy.manager import DatabaseConnectionManager

__all__ = ["managers"]

#: Every manager that is in use.
managers: weakref.WeakSet[DatabaseConnectionManager] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for manager in list(managers):
        manager.leave_pool_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
