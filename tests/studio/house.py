"""A studio under test, and a visitor who uses it as a browser without JavaScript would."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from studio.catalogue.records import PaintFields
from studio.services import Services

NAME, PASSWORD = "admin", "correct horse battery"


class House:
    """An application with its services."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.services: Services = app.extensions["studio"]

    def visitor(self) -> "Visitor":
        """Somebody who has not logged in."""
        return Visitor(self.app)

    def admin(self) -> "Visitor":
        """The administrator, with the session that a login gives; the login itself takes its time, on purpose."""
        visitor = self.visitor()
        with visitor.client.session_transaction() as session:
            session.update(user=1, version=1)
        return visitor

    def log_in(self) -> "Visitor":
        """The administrator, by way of the login page."""
        visitor = self.visitor()
        answer = visitor.send("/login", {"name": NAME, "password": PASSWORD})
        assert 303 == answer.status_code, answer.text
        return visitor

    def stock_up(self, paints: Sequence[PaintFields]) -> None:
        """Put paints into the catalogue."""
        with self.app.app_context():
            self.services.importer.store(paints)


class Visitor:
    """Opens pages and sends forms; a form's token comes from the page that shows it."""

    def __init__(self, app: Flask) -> None:
        self.client = app.test_client()

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.client.get(path, buffered=True, **options)

    def send(
        self, path: str, values: dict[str, Any], *, shown_on: str = "/login", **options: Any
    ) -> TestResponse:
        token = self.token(shown_on)
        return self.client.post(path, data={"csrf_token": token, **values}, **options)

    def token(self, path: str = "/login") -> str:
        return self.token_from(self.get(path))

    def token_from(self, page: TestResponse) -> str:
        found = re.search(r'name="csrf_token" (?:type="hidden" )?value="([^"]+)"', page.text)
        assert found, "the page holds no token"
        return found[1]


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def text_of(html: str) -> str:
    """What a reader reads, with single spaces."""
    parser = _Text()
    parser.feed(html)
    return " ".join(" ".join(parser.parts).split())


def paint(name: str = "Moss", **values: Any) -> PaintFields:
    """A paint that is valid."""
    return PaintFields(
        **{"brand": "Alder", "range": "Core", "code": "A1", "hex": "#336633", "name": name, **values}
    )


def form_of(fields: PaintFields, **values: Any) -> dict[str, Any]:
    """What a browser sends for a paint."""
    given = fields._asdict()
    cents = given.pop("price_cents")
    return {**given, "price": f"{cents // 100}.{cents % 100:02d}", **values}


def take_away(house: House, monkeypatch) -> list[None]:
    """Let the database be away: whoever wants a connection is refused, and noted."""
    asked: list[None] = []

    def refuse():
        asked.append(None)
        raise ConnectionRefusedError("connection refused: secret address")

    monkeypatch.setattr(house.services.kit.db.engine.pool, "connect", refuse)
    return asked
