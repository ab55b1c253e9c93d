"""The picture of a paint: looked up with others in one SELECT, drawn at the first request, then kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from sqlalchemy import select

from paintkit import RejectedError, RequestBatcher
from studio.catalogue.reads import PAINTS, paint_tag
from studio.models import Paint
from studio.swatches.drawing import VERSION, draw, flat
from studio.swatches.store import ImageStore
from studio.toolkit import Toolkit

__all__ = ["Gallery", "Look", "Picture", "open_gallery"]

log = logging.getLogger("studio.swatches")

_LOCKS = 16

#: How many look-ups one SELECT answers, and how many seconds the first of them waits for company.
TOGETHER, PATIENCE = 8, 0.01


class Look(NamedTuple):
    """What decides a picture."""

    hex: str
    finish: str

    @property
    def key(self) -> str:
        """The picture's name in the store; paints that look the same share it."""
        return f"{self.hex[1:].lower()}-{self.finish}-{VERSION}.webp"


class Picture(NamedTuple):
    """A picture, and whether it is the one to remember: a plain colour stands in while the store is away."""

    data: bytes
    lasting: bool


class Gallery(NamedTuple):
    """How pages get pictures."""

    picture: Callable[[int], Picture | None]
    batcher: RequestBatcher[int, Look | None]


def open_gallery(kit: Toolkit) -> Gallery:
    """Make the gallery, on this toolkit's database, cache and image store."""
    batcher = RequestBatcher(_looks(kit), TOGETHER, PATIENCE, name="swatch look-ups")
    kept, keep = _store(kit)
    drawing = [threading.Lock() for _ in range(_LOCKS)]  # one drawing of a picture at a time

    @kit.cache.cache_result(timeout=300, tags=lambda paint_id: (PAINTS, paint_tag(paint_id)))
    def look(paint_id: int) -> Look | None:
        return batcher.add(paint_id)

    def drawn(shown: Look) -> bytes:
        with drawing[hash(shown.key) % _LOCKS]:
            return kept(shown.key) or keep(
                shown.key, kit.monitor.measure("swatch drawing", lambda: draw(*shown))
            )

    def picture(paint_id: int) -> Picture | None:
        if (shown := look(paint_id)) is None:
            return None
        try:
            return Picture(kept(shown.key) or drawn(shown), lasting=True)
        except (OSError, RejectedError) as error:
            log.warning("the image store is away, a plain colour stands in: %s", error)
            return Picture(flat(shown.hex), lasting=False)

    return Gallery(picture, batcher)


def _looks(kit: Toolkit) -> Callable[[Sequence[int]], list[Look | None]]:
    @kit.guard_database
    def looks(paint_ids: Sequence[int]) -> list[Look | None]:
        wanted = select(Paint.id, Paint.hex, Paint.finish).where(Paint.id.in_(set(paint_ids)))
        with kit.db.unit_of_work(read_only=True) as session:
            found = {paint_id: Look(hex_, finish) for paint_id, hex_, finish in session.execute(wanted)}
        return [found.get(paint_id) for paint_id in paint_ids]

    return looks


def _store(kit: Toolkit) -> tuple[Callable[[str], bytes | None], Callable[[str, bytes], bytes]]:
    """Return how to get and to put, each behind the store's retry and breaker; the store is built at the first use."""

    def store() -> ImageStore:
        return cast(ImageStore, kit.components.get("image-store"))

    @kit.guard_images
    def kept(key: str) -> bytes | None:
        return store().get(key)

    @kit.guard_images
    def keep(key: str, picture: bytes) -> bytes:
        store().put(key, picture)
        return picture

    return kept, keep
