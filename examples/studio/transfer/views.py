"""`/import` and `/export.csv`."""

from __future__ import annotations

from flask import (
    Blueprint,
    Response,
    abort,
    flash,
    redirect,
    render_template,
    request,
    stream_with_context,
    url_for,
)
from werkzeug.wrappers import Response as AnyResponse

from studio.auth.access import anyone, current_user
from studio.problems import ImportConflictError
from studio.services import services
from studio.transfer.csv_in import COLUMNS
from studio.transfer.importer import Report

__all__ = ["blueprint"]

blueprint = Blueprint("transfer", __name__)

_PROBLEMS_SHOWN = 1000


@blueprint.get("/import")
def form() -> str:
    """Ask for a file."""
    return _page(None)


@blueprint.post("/import")
def check() -> str | tuple[str, int]:
    """Check the file, and offer to import it if every row is good."""
    upload = request.files.get("file")
    if upload is None or not upload.filename:
        return _page(None, problem="Choose a file first."), 422
    data = upload.read()
    report = services().importer.check(data)
    if report.problems:
        return _page(report), 422
    return _page(report, ticket=services().stash.keep(data))


@blueprint.post("/import/apply")
def apply() -> str | AnyResponse | tuple[str, int]:
    """Import the file that was checked."""
    ticket, person = request.form.get("ticket", ""), current_user()
    data = services().stash.find(ticket)
    if data is None:
        return _page(None, problem="The file is no longer here: choose it again."), 409
    try:
        report = services().importer.apply(data, person.id if person else abort(403))
    except ImportConflictError:
        return _page(
            None, problem="Somebody stored some of these paints meanwhile: check the file again."
        ), 409
    if report.problems:
        return _page(report), 422
    services().stash.drop(ticket)
    flash(f"{report.added} added, {report.changed} changed, {report.unchanged} unchanged.", "success")
    return redirect(url_for("catalogue.index", sort="newest"), 303)


@blueprint.get("/export.csv")
@anyone
def export() -> Response:
    """Send the whole catalogue."""
    answer = Response(stream_with_context(services().export()), mimetype="text/csv")
    answer.headers["Content-Disposition"] = "attachment; filename=paints.csv"
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _page(report: Report | None, *, ticket: str = "", problem: str = "") -> str:
    config = services().config
    return render_template(
        "transfer/import.html",
        report=report,
        ticket=ticket,
        problem=problem,
        columns=COLUMNS,
        shown=_PROBLEMS_SHOWN,
        megabytes=config.max_upload_bytes // 1024**2,
        max_rows=config.max_upload_rows,
    )
