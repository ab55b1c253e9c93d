"""`/login`, `/logout` and `/theme`."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Blueprint, abort, redirect, render_template, request, session, url_for
from flask_wtf import FlaskForm
from werkzeug.exceptions import TooManyRequests
from werkzeug.wrappers import Response
from wtforms import PasswordField, StringField
from wtforms.validators import InputRequired, Length

from studio.auth.access import anyone, current_user
from studio.auth.passwords import Passwords
from studio.auth.users import LONGEST_NAME, Person
from studio.services import services

__all__ = ["blueprint"]

blueprint = Blueprint("auth", __name__)

_THEMES = ("auto", "light", "dark")
_YEAR = 365 * 24 * 3600


class LoginForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    """A name and a password."""

    name = StringField("Name", [InputRequired("Enter your name."), Length(max=LONGEST_NAME)])
    password = PasswordField("Password", [InputRequired("Enter your password."), Length(max=200)])


@blueprint.route("/login", methods=["GET", "POST"])
@anyone
def login() -> str | Response | tuple[str, int]:
    """Show the form, or let somebody in."""
    form, there = LoginForm(), _safe_target(request.values.get("next", ""))
    if not form.validate_on_submit():
        return render_template("auth/login.html", form=form, next=there)
    throttle, keys = services().throttle, (f"name:{form.name.data}", f"address:{request.remote_addr}")
    if wait := throttle.wait(*keys):
        raise TooManyRequests(f"Too many tries. Wait {wait} seconds.", retry_after=wait)
    person = _known(form.name.data or "", form.password.data or "")
    if person is None:
        throttle.failed(*keys)
        form.password.errors = ("Name or password is wrong.",)
        return render_template("auth/login.html", form=form, next=there), 403
    throttle.succeeded(*keys)
    _begin_session(person)
    return redirect(there, 303)


@blueprint.post("/logout")
@anyone
def logout() -> Response:
    """End every session of this person, here and elsewhere."""
    if (person := current_user()) is not None:
        services().users.end_sessions(person.id)
    session.clear()
    return redirect(url_for("catalogue.index"), 303)


@blueprint.post("/theme")
@anyone
def theme() -> Response:
    """Remember light, dark, or what the system says."""
    chosen = request.form.get("theme", "")
    if chosen not in _THEMES:
        abort(400, description="theme must be auto, light or dark")
    answer = redirect(_safe_target(request.form.get("next", "")), 303)
    answer.set_cookie("theme", chosen, max_age=_YEAR, samesite="Lax", httponly=True, secure=request.is_secure)
    return answer


def _known(name: str, password: str) -> Person | None:
    users, passwords = services().users, services().kit.components.get("password-hasher", Passwords)
    person = users.by_name(name)
    if not passwords.check(password, person.password_hash if person else None) or person is None:
        return None
    if passwords.is_outdated(person.password_hash):
        users.rehash(person.id, passwords.hash(password))
    return person


def _begin_session(person: Person) -> None:
    session.clear()  # nothing a visitor was given survives the login
    session["user"], session["version"] = person.id, person.session_version
    session.permanent = True


def _safe_target(wanted: str) -> str:
    """Return a place on this site: an address of another one would lend it our name."""
    parts = urlsplit(wanted)
    is_ours = (
        wanted.startswith("/")
        and not parts.netloc
        and wanted[1:2] not in {"/", "\\"}
        and wanted.isprintable()
    )
    return wanted if is_ours else url_for("catalogue.index")
