"""What the views of one application work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

from flask import current_app

from studio.transfer.importer import Importer

if TYPE_CHECKING:
    from studio.auth.throttle import Throttle
    from studio.auth.users import Users
    from studio.catalogue.reads import Reads
    from studio.catalogue.writes import Writes
    from studio.config import Config
    from studio.swatches.gallery import Gallery
    from studio.toolkit import Toolkit
    from studio.transfer.stash import Stash

__all__ = ["Services", "services"]


class Services(NamedTuple):
    """Everything behind the pages."""

    config: Config
    kit: Toolkit
    reads: Reads
    writes: Writes
    gallery: Gallery
    users: Users
    throttle: Throttle
    export: Callable[[], Iterator[str]]
    stash: Stash

    @property
    def importer(self) -> Importer:
        """The importer, built when it is first wanted."""
        return self.kit.components.get("importer", Importer)

    def close(self) -> None:
        """Finish what waits, close what was built, then the database's connections."""
        self.gallery.batcher.close()
        self.kit.components.close()
        self.kit.db.close()


def services() -> Services:
    """Return what the current application works with."""
    return cast(Services, current_app.extensions["studio"])
