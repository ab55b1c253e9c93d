"""Where finished pictures are kept."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Protocol

__all__ = ["FolderImageStore", "ImageStore"]

_KEY = re.compile(r"[0-9a-z][0-9a-z.-]{0,99}")


class ImageStore(Protocol):
    """A place for pictures under names of our own making; any failure to reach it is an `OSError`."""

    def get(self, key: str) -> bytes | None:
        """Return the picture, or `None` if there is none of this name."""
        ...

    def put(self, key: str, picture: bytes) -> None:
        """Keep the picture, in place of one of the same name."""
        ...

    def close(self) -> None:
        """Let go of everything held."""
        ...


class FolderImageStore:
    """Keeps pictures as files; a reader sees a whole picture or none, whoever writes at the same moment.

    Args:
        folder: Made when the first picture comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> bytes | None:
        """Return the picture, or `None`."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, picture: bytes) -> None:
        """Write beside, then rename: the rename is atomic."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(picture)
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Remove what an interrupted write left behind."""
        for path in self._folder.glob(".*.part"):
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key) or ".." in key:
            raise ValueError(f"{key!r} is no name of a picture")
        return self._folder / key
