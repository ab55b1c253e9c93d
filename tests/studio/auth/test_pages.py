"""Laws of logging in, and of who may open what."""

import pytest
from flask import Flask

from paintkit.testing import FakeClock
from studio.catalogue.generator import generate
from studio.config import ProductionConfig
from tests.studio.house import NAME, PASSWORD, paint


def test_the_right_password_opens(house):
    """The administrator sees the administrator's links; a visitor does not."""
    assert "Log out" in house.log_in().get("/paints").text
    assert "Import" not in house.visitor().get("/paints").text


@pytest.mark.parametrize(
    ("name", "password"), [(NAME, "wrong"), ("nobody", PASSWORD), (NAME.upper(), PASSWORD)]
)
def test_a_wrong_login_says_the_same_for_all(house, name, password):
    """Nobody learns whether the name exists."""
    visitor = house.visitor()
    answer = visitor.send("/login", {"name": name, "password": password})
    assert 403 == answer.status_code
    assert "Name or password is wrong." in answer.text
    assert "Log in" in visitor.get("/paints").text


def test_guessing_is_slowed_down(house):
    """After five mistakes even the right password has to wait, with the seconds in Retry-After."""
    with FakeClock() as clock:
        visitor = house.visitor()
        for _ in range(5):
            visitor.send("/login", {"name": NAME, "password": "wrong"})
        answer = visitor.send("/login", {"name": NAME, "password": PASSWORD})
        assert (429, "300") == (answer.status_code, answer.headers["Retry-After"])
        clock.advance(301)
        assert 303 == visitor.send("/login", {"name": NAME, "password": PASSWORD}).status_code


def test_the_session_cookie_is_guarded(config, password_hash, open_house):
    """In production it goes over TLS alone, to this host alone, and no script reads it."""
    house = open_house()
    house.app.config.update(ProductionConfig(**vars(config) | {"development": False}).as_flask())
    visitor = house.visitor()
    token = visitor.token_from(visitor.get("/login", base_url="https://localhost"))
    values = {"csrf_token": token, "name": NAME, "password": PASSWORD}
    headers = {"Referer": "https://localhost/login"}
    answer = visitor.client.post("/login", data=values, base_url="https://localhost", headers=headers)
    (cookie,) = answer.headers.getlist("Set-Cookie")
    assert cookie.startswith("__Host-studio=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert "max-age" in answer.headers["Strict-Transport-Security"]


def test_a_login_starts_a_new_session(house):
    """Nothing of the visitor's session survives, the token of its forms included."""
    visitor = house.visitor()
    token = visitor.token()
    visitor.client.post("/login", data={"csrf_token": token, "name": NAME, "password": PASSWORD})
    assert 400 == visitor.client.post("/logout", data={"csrf_token": token}).status_code


def test_logout_ends_every_session(house):
    """A cookie kept from before the logout opens nothing, on any machine."""
    here, there = house.log_in(), house.log_in()
    assert 303 == here.send("/logout", {}).status_code
    for visitor in (here, there):
        assert "/login?next=/admin/system" == visitor.get("/admin/system").location


@pytest.mark.parametrize(
    "there", ["https://evil.example/", "//evil.example", "/\\evil.example", "evil", "/%0d%0aX:1\r\nY:1", ""]
)
def test_a_login_leads_to_our_own_pages(house, there):
    """An address of another site does not become ours by way of the login."""
    answer = house.visitor().send("/login", {"name": NAME, "password": PASSWORD, "next": there})
    assert answer.location.startswith("/")
    assert "evil.example" not in answer.location


def test_a_login_leads_back(house):
    """Whoever was sent to the login arrives where they were going."""
    visitor = house.visitor()
    wanted = visitor.get("/paints/new?x=1").location
    assert "/login?next=/paints/new?x%3D1" == wanted
    values = {"name": NAME, "password": PASSWORD, "next": "/paints/new?x=1"}
    assert "/paints/new?x=1" == visitor.send("/login", values).location


# Who may use which view: everyone, or the administrator alone. A view that is missing here fails the test below.
OPEN = {
    "static", "bootstrap.static", "catalogue.home", "catalogue.index", "catalogue.detail", "auth.login", "auth.logout",
    "auth.theme", "transfer.export", "swatches.swatch", "paintkit.live", "paintkit.ready",
    "paintkit.metrics",
}  # fmt: skip
CLOSED = {
    "catalogue.new", "catalogue.edit", "catalogue.move_stock", "catalogue.delete", "transfer.form", "transfer.check",
    "transfer.apply", "admin.system",
}  # fmt: skip


def _routes(app: Flask) -> list[tuple[str, str, str]]:
    paths = []
    for rule in app.url_map.iter_rules():
        with app.test_request_context():
            path = app.url_map.bind("localhost").build(
                rule.endpoint, dict.fromkeys(rule.arguments, 1), force_external=False
            )
        paths += [
            (rule.endpoint, method, path) for method in sorted((rule.methods or set()) & {"GET", "POST"})
        ]
    return paths


def test_every_view_says_who_may_use_it(house):
    """There is no view without a decision."""
    assert set() == {endpoint for endpoint, _, _ in _routes(house.app)} - OPEN - CLOSED


def test_closed_views_refuse_visitors(house):
    """A visitor is sent to the login, or refused if the request would change something; nothing changes."""
    house.stock_up(generate(1))
    visitor = house.visitor()
    token = visitor.token()
    for endpoint, method, path in _routes(house.app):
        if endpoint in CLOSED:
            answer = visitor.client.open(
                path, method=method, data={"csrf_token": token} if method == "POST" else None
            )
            assert (303 if method == "GET" else 403) == answer.status_code, path


def test_viewers_may_only_look(house):
    """A role that is not the administrator's gets 403, for reading the machinery too."""
    with house.app.app_context():
        passwords = house.services.kit.components.get("password-hasher")
        house.services.users.create("ann", "viewer", passwords.hash(PASSWORD))
    ann = house.visitor()
    ann.send("/login", {"name": "ann", "password": PASSWORD})
    token = ann.token("/paints")
    for endpoint, method, path in _routes(house.app):
        if endpoint in CLOSED:
            answer = ann.client.open(
                path, method=method, data={"csrf_token": token} if method == "POST" else None
            )
            assert 403 == answer.status_code, path


def test_every_change_needs_its_token(house):
    """A form of another site changes nothing, the administrator's cookie notwithstanding."""
    house.stock_up([paint("Moss", stock=3)])
    admin = house.admin()
    for _endpoint, method, path in _routes(house.app):
        if method == "POST":
            assert 400 == admin.client.post(path, data={"delta": "1", "version": "1"}).status_code, path
    assert "data-stock>3<" in admin.get("/paints/1").text


def test_old_hashes_are_renewed(house):
    """A login with a hash of weaker parameters stores a stronger one."""
    from argon2 import PasswordHasher

    with house.app.app_context():
        weak = PasswordHasher(time_cost=1, memory_cost=1024).hash(PASSWORD)
        house.services.users.create("old", "admin", weak)
        assert 303 == house.visitor().send("/login", {"name": "old", "password": PASSWORD}).status_code
        assert weak != house.services.users.by_name("old").password_hash
