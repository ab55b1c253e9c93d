"""Records: values that belong together under their names, in classes that cost next to nothing to define.

Every import of this package pays for its classes. `typing.NamedTuple` writes and compiles source for each of its own, and
`dataclasses` imports `inspect`. A record is for what nobody unpacks or compares.
"""

from __future__ import annotations

from typing import dataclass_transform

__all__ = ["Record"]


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=False)
class Record:
    """The base of classes that are annotated fields, made by keyword; type checkers see that none is missing.

    Example:
        >>> class Size(Record):
        ...     width: int
        ...     height: int = 1
        >>> size = Size(width=3)
        >>> size.width * size.height
        3
    """

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)
