"""`/admin/system`: what every primitive is doing at this moment."""

from __future__ import annotations

from flask import Blueprint, render_template

from studio.admin.system import look
from studio.services import services

__all__ = ["blueprint"]

blueprint = Blueprint("admin", __name__, url_prefix="/admin")


@blueprint.get("/system")
def system() -> str:
    """Show the machinery."""
    return render_template("admin/system.html", system=look(services()))
