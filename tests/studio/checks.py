"""What a user sees of each primitive: one check for each, all of the same shape.

Each check asserts something that a visitor or the administrator sees, and that is there only because the primitive does
its work. `test_primitives.py` runs every check twice: as it is, and with the primitive replaced by a pass-through that
lets all calls through and does nothing, where the check must fail.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from paintkit.testing import FakeClock
from studio.catalogue.generator import generate
from tests.studio.house import House, Visitor, form_of, paint, take_away, text_of


def cache(house: House, monkeypatch) -> None:
    """A list that was shown before is shown again while the database is away."""
    house.stock_up(generate(5))
    visitor = house.visitor()
    before = visitor.get("/paints")
    take_away(house, monkeypatch)
    with FakeClock():
        after = visitor.get("/paints")
    assert (200, 200) == (before.status_code, after.status_code)
    assert names(before.text) == names(after.text)


def unit_of_work(house: House, monkeypatch) -> None:
    """A move whose note cannot be written has not moved the stock."""
    house.stock_up([paint("Moss", stock=3)])
    admin = house.admin()
    with FakeClock(), failing(house, "INSERT INTO stock_moves"):
        assert 503 == admin.send("/paints/1/stock", {"delta": "1"}).status_code
    house.services.kit.cache.invalidate()
    assert "data-stock>3<" in admin.get("/paints/1").text


def events(house: House, monkeypatch) -> None:
    """An edit shows on pages that were shown before it."""
    house.stock_up([paint("Moss")])
    admin = house.admin()
    assert ["Moss"] == names(admin.get("/paints").text)
    assert 303 == admin.send("/paints/1/edit", form_of(paint("Fern"), version="1")).status_code
    assert ["Fern"] == names(admin.get("/paints").text)
    assert "Fern" in admin.get("/paints/1").text


def retry(house: House, monkeypatch) -> None:
    """A connection that is lost once costs no visitor a page."""
    house.stock_up([paint("Moss")])
    with FakeClock(), failing(house, "SELECT", times=1):
        assert 200 == house.visitor().get("/paints/1").status_code


def breaker(house: House, monkeypatch) -> None:
    """While the database is away, pages fail without asking it again, and the page says when to come back."""
    visitor = house.visitor()
    asked = take_away(house, monkeypatch)
    with FakeClock():
        for number in range(1, 4):
            assert 503 == visitor.get(f"/paints/{number}").status_code
        before = len(asked)
        answer = visitor.get("/paints/4")
    assert (503, "10") == (answer.status_code, answer.headers["Retry-After"])
    assert before == len(asked)


def batcher(house: House, monkeypatch) -> None:
    """Eight pictures that a page asks for at once are looked up in one statement, as the system page says."""
    house.stock_up(generate(8))
    admin, start, asked = house.admin(), threading.Barrier(8), []
    event.listen(
        house.services.kit.db.engine,
        "before_cursor_execute",
        lambda *args: asked.append(args[2]) if "FROM paints" in args[2] and "IN (" in args[2] else None,
    )

    def look(visitor: Visitor, number: int) -> None:
        start.wait(60)
        visitor.get(f"/swatches/{number}.webp")

    threads = [threading.Thread(target=look, args=(house.visitor(), number)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len(asked)
    assert "Requests 8 Batches 1" in text_of(admin.get("/admin/system").text)


def components(house: House, monkeypatch) -> None:
    """What three logins need is built once, what nobody needs is not, and the system page says so."""
    for _ in range(2):
        house.log_in()
    admin = house.log_in()
    page = text_of(admin.get("/admin/system").text)
    assert "image-store not needed yet password-hasher BUILT importer not needed yet Builds 1" in page


def monitor(house: House, monkeypatch) -> None:
    """The system page counts the pages that were opened."""
    admin = house.admin()
    for _ in range(3):
        admin.get("/paints")
    assert re.search(r"page catalogue\.index 3 0 [\d.]+ ms", text_of(admin.get("/admin/system").text))


CHECKS = {
    "cache": cache,
    "unit_of_work": unit_of_work,
    "events": events,
    "retry": retry,
    "breaker": breaker,
    "batcher": batcher,
    "components": components,
    "monitor": monitor,
}


@contextmanager
def failing(house: House, beginning: str, *, times: int = 1_000) -> Iterator[None]:
    """Lose the connection, so it seems, before the first statements that begin like this."""
    engine, left = house.services.kit.db.engine, [times]

    def fail(*args):
        if args[2].startswith(beginning) and left[0]:
            left[0] -= 1
            raise ConnectionResetError("connection reset by peer")

    event.listen(engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", fail)


def names(html: str) -> list[str]:
    """The names of the paints on a list page, in order."""
    return re.findall(r'class="paint-name" href="[^"]+">([^<]+)<', html)
