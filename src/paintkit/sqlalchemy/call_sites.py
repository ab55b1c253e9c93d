"""Which line of the application caused what SQLAlchemy does at this moment."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Final

from sqlalchemy import __file__ as sqlalchemy_file

__all__ = ["frames", "is_caller", "place", "places"]

# With the separator: `paintkit_shop` beside us is somebody else's.
_PACKAGES: Final = tuple(sysconfig.get_paths()[name] + os.sep for name in ("purelib", "platlib"))
_STDLIB: Final = sysconfig.get_paths()["stdlib"] + os.sep

# Code in these folders does as it is told, and so does what a template engine does for its templates.
_ENGINE_ROOM: Final = (
    str(Path(sqlalchemy_file).parent) + os.sep,
    str(Path(__file__).parents[1]) + os.sep,
    *(str(Path(folder, "jinja2")) + os.sep for folder in _PACKAGES),
    "<",
)


def frames(inner: FrameType) -> Iterator[FrameType]:
    """Return the frames from `inner` outwards, those of waiting greenlets included.

    SQLAlchemy's asyncio half runs in a greenlet; who awaits it stands in the greenlet that waits for this one.
    """
    module = sys.modules.get("greenlet")
    greenlet = None if module is None else module.getcurrent()
    frame: FrameType | None = inner
    while frame is not None:
        yield frame
        frame = frame.f_back
        while frame is None and greenlet is not None:
            greenlet = greenlet.parent
            frame = None if greenlet is None else greenlet.gr_frame


# By file, not by code object: a code object computes its hash anew each time, and the files are fewer.
@functools.lru_cache(maxsize=4096)
def is_caller(file: str) -> bool:
    """Whether code of this file acts of its own will; third-party packages lie in the standard library, yet they do."""
    return not file.startswith(_ENGINE_ROOM) and (file.startswith(_PACKAGES) or not file.startswith(_STDLIB))


def place(frame: FrameType) -> str:
    """Return `file:line`; of a template the line as it was written."""
    line = frame.f_lineno
    template = frame.f_globals.get("__jinja_template__")
    if template is not None:
        line = template.get_corresponding_lineno(line)
    return f"{frame.f_code.co_filename}:{line}"


def places(inner: FrameType, most: int) -> tuple[tuple[str, int], ...]:
    """Return up to `most` callers as file and line, innermost first: cheap, for what is mostly thrown away."""
    # Not by `frames`, which costs twice as much as this, at each checkout; it is asked where others wait for us.
    found: list[tuple[str, int]] = []
    frame: FrameType | None = inner
    while frame is not None:
        file = frame.f_code.co_filename
        if is_caller(file):
            found.append((file, frame.f_lineno))
            if len(found) == most:
                return tuple(found)
        frame = frame.f_back
    callers = (frame for frame in frames(inner) if is_caller(frame.f_code.co_filename))
    return tuple((frame.f_code.co_filename, frame.f_lineno) for frame in islice(callers, most))
