"""The application for other servers and for the `flask` command: `flask --app studio.wsgi paintkit stats`."""

from studio.app import create_app
from studio.config import load_config

__all__ = ["app"]

app = create_app(load_config())
