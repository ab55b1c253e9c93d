"""paintkit in a Flask app: health, metrics, commands."""

from paintkit.flask.extension import PaintKit

__all__ = ["PaintKit"]
