"""The application: a table of contents of everything that makes the studio."""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask_wtf import CSRFProtect
from werkzeug.middleware.proxy_fix import ProxyFix

from paintkit.flask import PaintKit
from paintkit.sqlalchemy import PoolConfig
from studio.admin.views import blueprint as admin
from studio.auth.access import register_access
from studio.auth.passwords import Passwords
from studio.auth.throttle import Throttle
from studio.auth.users import open_users
from studio.auth.views import blueprint as auth
from studio.catalogue.events import register_events
from studio.catalogue.reads import open_reads
from studio.catalogue.views import blueprint as catalogue
from studio.catalogue.writes import open_writes
from studio.config import Config
from studio.services import Services
from studio.swatches.gallery import open_gallery
from studio.swatches.store import FolderImageStore
from studio.swatches.views import blueprint as swatches
from studio.toolkit import Toolkit, open_toolkit
from studio.transfer.csv_out import open_export
from studio.transfer.importer import Importer
from studio.transfer.stash import Stash
from studio.transfer.views import blueprint as transfer
from studio.web.appearance import register_appearance
from studio.web.errors import register_errors
from studio.web.headers import register_headers

__all__ = ["create_app"]


def create_app(config: Config) -> Flask:
    """Make the application for a configuration that `load_config` has checked."""
    app = Flask("studio")
    app.config.update(config.as_flask())
    pool = PoolConfig.development() if config.development else PoolConfig.production()
    kit = open_toolkit(app, pool=pool, redis_url=config.redis_url)
    register_components(kit, config)
    register_events(kit)
    register_services(app, kit, config)
    register_proxy(app, config)
    register_headers(app)
    register_appearance(app)
    register_errors(app)
    CSRFProtect(app)
    register_access(app)
    register_pages(app)
    register_paintkit(app, kit)
    register_measures(app, kit)
    return app


def register_components(kit: Toolkit, config: Config) -> None:
    """Name what is costly to build; each is built when it is first wanted, and closed at exit."""
    kit.components.register("image-store", lambda: FolderImageStore(config.data / "swatches"))
    kit.components.register("password-hasher", Passwords)
    kit.components.register("importer", lambda: Importer(kit, max_rows=config.max_upload_rows))


def register_services(app: Flask, kit: Toolkit, config: Config) -> None:
    """Make what the views work with."""
    app.extensions["studio"] = Services(
        config=config,
        kit=kit,
        reads=open_reads(kit),
        writes=open_writes(kit),
        gallery=open_gallery(kit),
        users=open_users(kit),
        throttle=Throttle(),
        export=open_export(kit),
        stash=Stash(config.data / "uploads"),
    )


def register_proxy(app: Flask, config: Config) -> None:
    """Believe as many proxies as there are, and not one more."""
    if hops := config.proxy_hops:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]  # Flask's own recipe


def register_pages(app: Flask) -> None:
    """Add the places of the studio."""
    for blueprint in (catalogue, auth, transfer, swatches, admin):
        app.register_blueprint(blueprint)


def register_paintkit(app: Flask, kit: Toolkit) -> None:
    """Add health, metrics and commands, and the session that each request reads with."""
    batcher = app.extensions["studio"].gallery.batcher
    PaintKit(
        app,
        db=kit.db,
        cache=kit.cache,
        recovery=kit.recovery,
        bus=kit.bus,
        batcher=batcher,
        components=kit.components,
        monitor=kit.monitor,
        checks={"shared-cache": kit.ask_shared_cache} if kit.shared_cache else {},
    )


def register_measures(app: Flask, kit: Toolkit) -> None:
    """Let the monitor measure every page."""
    views: dict[str, Any] = app.view_functions
    for endpoint, view in views.items():
        views[endpoint] = kit.monitor.measure(f"page {endpoint}")(view)
