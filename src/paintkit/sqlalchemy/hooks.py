"""What waits for the COMMIT: a page for each open savepoint, of rows to write before it and actions to run after it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["Action", "Ledger", "Writer", "run"]

_log: Final = logging.getLogger("paintkit.sqlalchemy")

Action = Callable[[], object]

#: Writes rows, all that it was given in a unit of work, into the transaction that is about to be committed.
Writer = Callable[["Session", list[Any]], None]


class _Page:
    """What was registered, and what went wrong, since one savepoint (or the root) began."""

    __slots__ = ("actions", "doom", "released", "rows")

    def __init__(self) -> None:
        self.actions: list[tuple[Action, bool]] = []
        self.rows: list[tuple[Writer, Any]] = []
        self.doom: BaseException | None = None
        self.released = False


class Ledger:
    """The pages of one unit of work, the root's first.

    SQLAlchemy ends a nested transaction before it tells that it was rolled back, and it tells of a commit before the
    end. So a page moves into its parent only if it was released before it closed; otherwise it is forgotten, with all
    that was registered or went wrong in it.
    """

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages = [_Page()]

    def add(self, action: Action, *, even_if_unknown: bool = False) -> None:
        """Register an action in the innermost open savepoint, and whether it runs after a commit of unknown outcome."""
        self._pages[-1].actions.append((action, even_if_unknown))

    def enclose(self, write: Writer, row: Any) -> None:
        """Note a row to be written right before the COMMIT."""
        self._pages[-1].rows.append((write, row))

    def doom(self, cause: BaseException, *, root: bool = False) -> None:
        """Note that the innermost savepoint (or the root, and so everything) can only be rolled back."""
        page = self._pages[0 if root else -1]
        page.doom = page.doom or cause

    @property
    def cause(self) -> BaseException | None:
        """Why the innermost savepoint, or one around it, can only be rolled back; `None` if it need not be."""
        return next((page.doom for page in self._pages if page.doom is not None), None)

    @property
    def innermost_cause(self) -> BaseException | None:
        """The same for what was done since the innermost savepoint only."""
        return self._pages[-1].doom

    def open(self) -> None:
        """A savepoint began."""
        self._pages.append(_Page())

    def release(self) -> None:
        """The innermost savepoint was released."""
        self._pages[-1].released = True

    def close(self) -> None:
        """The innermost savepoint ended, released or not."""
        page = self._pages.pop()
        if page.released:
            parent = self._pages[-1]
            parent.actions += page.actions
            parent.rows += page.rows
            parent.doom = parent.doom or page.doom

    @property
    def rows(self) -> dict[Writer, list[Any]]:
        """The rows of the root, in order, by who writes them."""
        rows: dict[Writer, list[Any]] = {}
        for write, row in self._pages[0].rows:
            rows.setdefault(write, []).append(row)
        return rows

    def take(self, *, unknown: bool = False) -> list[Action]:
        """Return the actions of the root, in the order in which they were registered, and keep none.

        Args:
            unknown: Return only those that run even if nobody knows whether the work is stored.
        """
        actions, self._pages[0].actions = self._pages[0].actions, []
        return [action for action, even_if_unknown in actions if even_if_unknown or not unknown]


async def run(actions: Iterable[Action], *, asyncio: bool) -> None:
    """Run every action, whatever the others do; a failing one is logged.

    What is stored is stored: no error of an action reaches the caller. An interrupt does, once all actions have run.

    Args:
        actions: What to run, in order.
        asyncio: Whether what they return may be awaited.
    """
    interrupt: BaseException | None = None
    for action in actions:
        try:
            result: Any = action()
            if hasattr(result, "__await__"):
                await _awaitable(result, asyncio=asyncio)
        except Exception:  # noqa: BLE001 - what is stored is stored, and the others still have to run
            _log.exception("the work is stored, but an action after its commit failed: %r", action)
        except BaseException as error:  # noqa: BLE001 - raised again below, after the other actions
            interrupt = interrupt or error
    if interrupt is not None:
        raise interrupt


def _awaitable(result: Awaitable[Any], *, asyncio: bool) -> Awaitable[Any]:
    if asyncio:
        return result
    if isinstance(result, Coroutine):
        result.close()
    raise TypeError("nothing awaits what an action returns after a blocking unit of work")
