"""An event loop for a command: what is async is run to its end, and leaves no connection behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["run"]


def run(db: Any, act: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine of an async database manager in a loop of its own, and return what it returns."""

    async def main() -> Any:
        try:
            return await act()
        finally:
            await db.async_engine.dispose()  # its connections belong to this loop

    return asyncio.run(main())
