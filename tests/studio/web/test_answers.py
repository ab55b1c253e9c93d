"""Laws of every answer: its headers, its errors, its theme."""

import re

import pytest
from sqlalchemy import text

from paintkit.testing import FakeClock
from tests.studio.house import paint, take_away


@pytest.mark.parametrize(
    "path", ["/paints", "/login", "/nothing", "/paints/1", "/swatches/1.webp", "/static/studio.css"]
)
def test_every_answer_protects_its_reader(house, path):
    """No answer leaves without its policy, its type and its id."""
    house.stock_up([paint("Moss")])
    headers = house.visitor().get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert ("nosniff", "same-origin", "DENY") == (
        headers["X-Content-Type-Options"],
        headers["Referrer-Policy"],
        headers["X-Frame-Options"],
    )
    assert re.fullmatch(r"[0-9a-f]{16}", headers["X-Request-ID"])


def test_no_nonce_twice(house):
    """Each page has its own nonce, and the page's style sheet bears it."""
    house.stock_up([paint("Moss")])
    visitor, seen = house.visitor(), set()
    for _ in range(3):
        answer = visitor.get("/paints")
        nonce = re.search(r"'nonce-([^']+)'", answer.headers["Content-Security-Policy"])[1]
        assert f'<style nonce="{nonce}">' in answer.text
        seen.add(nonce)
    assert 3 == len(seen)


def test_nothing_comes_from_elsewhere(house):
    """No page names another host: everything it needs is served here, and is there."""
    visitor = house.visitor()
    for path in ("/paints", "/login"):
        html = visitor.get(path).text
        assert [] == re.findall(r'(?:src|href|action)="(?:https?:)?//[^"]+"', html)
        for asset in re.findall(r'(?:src|href)="(/(?:static|bootstrap)[^"]+)"', html):
            assert 200 == visitor.get(asset).status_code, asset


def test_a_fault_of_ours_is_a_page_without_secrets(house, monkeypatch, caplog):
    """The visitor gets an id that finds the log line, and no word of the error."""
    monkeypatch.setattr("studio.catalogue.views.SORTS", None)
    house.app.config["TESTING"] = False
    answer = house.visitor().get("/paints")
    assert 500 == answer.status_code
    assert "NoneType" not in answer.text
    assert answer.headers["X-Request-ID"] in answer.text
    assert answer.headers["X-Request-ID"] in caplog.text


@pytest.mark.parametrize("token", ["", "forged"])
def test_a_form_without_its_token_says_what_to_do(house, token):
    """Nothing is changed, and the page says why, and the way out."""
    house.stock_up([paint("Moss", stock=1)])
    admin = house.admin()
    answer = admin.client.post("/paints/1/stock", data={"csrf_token": token, "delta": "1"})
    assert (400, True) == (answer.status_code, "load the page again" in answer.text)
    assert "data-stock>1<" in admin.get("/paints/1").text


def test_an_absent_database_is_503(house, monkeypatch):
    """The page says to come back, and when."""
    take_away(house, monkeypatch)
    with FakeClock():
        answer = house.visitor().get("/paints")
    assert 503 == answer.status_code
    assert int(answer.headers["Retry-After"]) > 0
    assert "secret" not in answer.text


def test_the_theme_is_remembered(house):
    """Light and dark are kept in a cookie; anything else is refused, and leads nowhere else."""
    visitor = house.visitor()
    assert 'data-theme="auto" data-bs-theme="light"' in visitor.get("/paints").text
    answer = visitor.send("/theme", {"theme": "dark", "next": "//evil.example"})
    assert "/paints" == answer.location
    assert 'data-theme="dark" data-bs-theme="dark"' in visitor.get("/paints").text
    assert 400 == visitor.send("/theme", {"theme": "pink"}).status_code


def test_a_wrong_method_is_405(house):
    """And so is a reading of what only changes."""
    assert 405 == house.visitor().client.put("/paints").status_code


def test_an_untrusted_host_is_refused(config, open_house):
    """With trusted hosts configured, a forged Host header gets 400."""
    import dataclasses

    from studio.app import create_app

    app = create_app(dataclasses.replace(config, trusted_hosts=("studio.example",)))
    try:
        assert 400 == app.test_client().get("/login", headers={"Host": "evil.example"}).status_code
        assert 200 == app.test_client().get("/login", headers={"Host": "studio.example"}).status_code
    finally:
        app.extensions["studio"].close()


def test_no_statement_runs_for_ever(house):
    """PostgreSQL ends a statement after 30 seconds."""
    with house.services.kit.db.unit_of_work(read_only=True) as session:
        if "postgresql" == session.get_bind().dialect.name:
            assert "30s" == session.execute(text("SHOW statement_timeout")).scalar_one()
