"""Predicates over exceptions, for `on=`, `never=`, `ignore=` and `record=`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from paintkit import _arguments

if TYPE_CHECKING:
    from paintkit.typing import Predicate

__all__ = ["caused_by"]


def caused_by(*types: type[Exception]) -> Predicate:
    """Return a predicate: the exception, or one that it was raised from, is one of these.

    It looks through explicit causes (`raise … from …`), and through the context of errors that were raised while
    another was handled, unless that was hidden (`from None`).

    Args:
        types: At least one exception type.

    Raises:
        TypeError: Something is not an exception type.
        ValueError: There is none.

    Example:
        >>> from paintkit import retry
        >>> policy = retry(on=caused_by(ConnectionError, TimeoutError))
        >>> wrapped = RuntimeError("could not load")
        >>> wrapped.__cause__ = ConnectionResetError()
        >>> caused_by(ConnectionError)(wrapped)
        True
    """
    wanted = _arguments.errors("types", types)
    return lambda error: any(isinstance(one, Exception) and wanted(one) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()  # a chain may be a circle
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
