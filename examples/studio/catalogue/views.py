"""`/paints`: the list, one paint, and the forms that change it."""

from __future__ import annotations

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from studio.auth.access import anyone, current_user
from studio.catalogue.forms import PaintForm
from studio.catalogue.listing import PAGE_SIZES, SORTS, STOCK_LEVELS, Listing
from studio.catalogue.records import PaintDetail, clean, has_control
from studio.problems import NotEnoughStockError, StaleVersionError, TwinError, sentence
from studio.services import services

__all__ = ["blueprint"]

blueprint = Blueprint("catalogue", __name__)

_ID = "<int(max=2147483647):paint_id>"
_MOST_MOVED = 1000
_LONGEST_REASON = 120
_TWIN = "There is such a paint already: same brand, range, code, name and colour."


@blueprint.get("/")
@anyone
def home() -> Response:
    """Send the visitor to the catalogue."""
    return redirect(url_for("catalogue.index"))


@blueprint.get("/paints")
@anyone
def index() -> str:
    """Show a page of the catalogue."""
    try:
        listing = Listing.from_query(request.args)
    except ValueError as error:
        abort(400, description=sentence(str(error)))
    reads = services().reads
    return render_template(
        "catalogue/index.html",
        listing=listing,
        page=reads.page(listing),
        facets=reads.facets(listing.q),
        sorts=SORTS,
        stock_levels=STOCK_LEVELS,
        page_sizes=PAGE_SIZES,
    )


@blueprint.get(f"/paints/{_ID}")
@anyone
def detail(paint_id: int) -> str:
    """Show one paint with its history."""
    return render_template("catalogue/detail.html", paint=_paint(paint_id))


@blueprint.route("/paints/new", methods=["GET", "POST"])
def new() -> str | Response | tuple[str, int]:
    """Add a paint."""
    form = PaintForm()
    if form.validate_on_submit() and (fields := form.paint):
        try:
            paint_id = services().writes.create(fields, _user_id())
        except TwinError:
            form.name.errors = [*form.name.errors, _TWIN]
            return _form_page(form, None), 409
        flash(f"{fields.name} is in the catalogue.", "success")
        return redirect(url_for("catalogue.detail", paint_id=paint_id), 303)
    return _form_page(form, None), 422 if form.errors else 200


@blueprint.route(f"/paints/{_ID}/edit", methods=["GET", "POST"])
def edit(paint_id: int) -> str | Response | tuple[str, int]:
    """Change a paint, unless somebody else did so after the form was opened."""
    paint = _paint(paint_id)
    form = PaintForm.of(paint)
    if not form.validate_on_submit() or (fields := form.paint) is None:
        return _form_page(form, paint), 422 if form.errors else 200
    try:
        found = services().writes.update(paint_id, form.version_number, fields)
    except TwinError:
        form.name.errors = [*form.name.errors, _TWIN]
        return _form_page(form, paint), 409
    except StaleVersionError:
        return _stale(form, paint_id), 409
    if not found:
        abort(404)
    flash("Saved.", "success")
    return redirect(url_for("catalogue.detail", paint_id=paint_id), 303)


@blueprint.post(f"/paints/{_ID}/stock")
def move_stock(paint_id: int) -> str | Response | tuple[str, int]:
    """Put some on the shelf, or take some."""
    delta, reason = _delta(request.form.get("delta", "")), clean(request.form.get("reason", ""))
    if len(reason) > _LONGEST_REASON or has_control(reason):
        abort(400, description=f"A reason has at most {_LONGEST_REASON} characters on one line.")
    try:
        stock = services().writes.move_stock(paint_id, delta, reason, _user_id())
    except NotEnoughStockError:
        paint = _paint(paint_id)
        problem = f"There are {paint.fields.stock} in stock: {delta:+d} is not possible."
        return render_template("catalogue/detail.html", paint=paint, problem=problem), 409
    if stock is None:
        abort(404)
    flash(f"Now {stock} in stock.", "success")
    return redirect(url_for("catalogue.detail", paint_id=paint_id), 303)


@blueprint.post(f"/paints/{_ID}/delete")
def delete(paint_id: int) -> str | Response | tuple[str, int]:
    """Remove a paint and its history, unless it changed since the page was opened."""
    version = request.form.get("version", "")
    if not (version.isascii() and version.isdecimal() and len(version) < 10):
        abort(400, description="The version of the paint is missing.")
    try:
        found = services().writes.delete(paint_id, int(version))
    except StaleVersionError:
        problem = "Somebody changed this paint after you opened it. Look again before you delete it."
        return render_template("catalogue/detail.html", paint=_paint(paint_id), problem=problem), 409
    if not found:
        abort(404)
    flash("Deleted.", "success")
    return redirect(url_for("catalogue.index"), 303)


def _paint(paint_id: int) -> PaintDetail:
    return services().reads.paint(paint_id) or abort(404)


def _user_id() -> int:
    person = current_user()
    return person.id if person else abort(403)


def _delta(text: str) -> int:
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 4 and 0 < int(digits) <= _MOST_MOVED):
        abort(400, description=f"A move is a whole number from -{_MOST_MOVED} to {_MOST_MOVED}, and not 0.")
    return -int(digits) if text.startswith("-") else int(digits)


def _form_page(form: PaintForm, paint: PaintDetail | None) -> str:
    brands = services().reads.facets("").brands("")
    return render_template("catalogue/form.html", form=form, paint=paint, brands=brands)


def _stale(form: PaintForm, paint_id: int) -> str:
    """Show what was entered beside what is stored now; saving again is then a decision."""
    paint = _paint(paint_id)
    form.version.data = str(paint.version)
    brands = services().reads.facets("").brands("")
    return render_template("catalogue/form.html", form=form, paint=paint, brands=brands, stale=True)
