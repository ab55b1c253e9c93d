"""`/swatches/<id>.webp`."""

from __future__ import annotations

from flask import Blueprint, abort, request
from werkzeug.wrappers import Response

from studio.auth.access import anyone
from studio.services import services

__all__ = ["blueprint"]

blueprint = Blueprint("swatches", __name__, url_prefix="/swatches")


@blueprint.get("/<int(max=2147483647):paint_id>.webp")
@anyone
def swatch(paint_id: int) -> Response:
    """Answer with the picture; the address of a page holds the colour, so the picture may be kept for a year."""
    picture = services().gallery.picture(paint_id)
    if picture is None:
        abort(404)
    answer = Response(picture.data, mimetype="image/webp")
    if not picture.lasting:
        answer.headers["Cache-Control"] = "no-store"
        return answer
    answer.headers["Cache-Control"] = f"public, max-age={31536000 if 'v' in request.args else 300}"
    answer.add_etag()
    return answer.make_conditional(request)
