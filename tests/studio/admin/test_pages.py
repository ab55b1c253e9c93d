"""Laws of the system page: what it says is what happens."""

import re

from paintkit.testing import FakeClock
from studio.catalogue.generator import generate
from studio.swatches.store import FolderImageStore
from tests.studio.house import House


class Stoppable:
    """An image store that a test can stop."""

    def __init__(self, folder):
        self.inner, self.stopped, self.calls = FolderImageStore(folder), False, 0

    def _answer(self):
        self.calls += 1
        if self.stopped:
            raise OSError("the store does not answer")

    def get(self, key):
        self._answer()
        return self.inner.get(key)

    def put(self, key, picture):
        self._answer()
        self.inner.put(key, picture)

    def close(self):
        self.inner.close()


def stoppable(house: House, folder) -> Stoppable:
    store = Stoppable(folder / "other")
    house.services.kit.components.register("image-store", lambda: store, replace=True)
    return store


def shown(visitor, attribute: str) -> str:
    """What the system page shows at this mark."""
    found = re.search(rf"{attribute}[^>]*>\s*(?:<span[^>]*>)?([^<]+)<", visitor.get("/admin/system").text)
    assert found, f"nothing is marked {attribute}"
    return found[1]


def state(visitor, name: str) -> str:
    return re.search(rf'data-breaker="{name}" data-state="(\w+)"', visitor.get("/admin/system").text)[1]


def test_the_image_store_stops_and_comes_back(house, tmp_path):
    """Retries, then OPEN while plain colours stand in and the store is left alone; HALF OPEN after a rest, then CLOSED."""
    with FakeClock() as clock:
        store = stoppable(house, tmp_path)
        house.stock_up(generate(12))
        admin = house.admin()
        assert ("closed", "0") == (state(admin, "image-store"), shown(admin, 'data-retries="image-store"'))
        store.stopped = True
        for number in (1, 2):
            answer = admin.get(f"/swatches/{number}.webp")
            assert (200, "no-store") == (answer.status_code, answer.headers["Cache-Control"])
        assert "open" == state(admin, "image-store")
        assert int(shown(admin, 'data-retries="image-store"')) >= 2
        calls = store.calls
        assert 200 == admin.get("/swatches/3.webp").status_code
        assert calls == store.calls
        store.stopped = False
        clock.advance(30)
        assert "half_open" == state(admin, "image-store")
        answer = admin.get("/swatches/3.webp")
        assert "public" in answer.headers["Cache-Control"]
        assert "closed" == state(admin, "image-store")


def test_components_are_built_when_wanted(house):
    """Nothing is built before it is needed; closing closes what was."""
    admin = house.admin()
    assert "not needed yet" == shown(admin, 'data-component="importer"')
    admin.get("/import")
    house.stock_up(generate(1))
    assert "BUILT" == shown(admin, 'data-component="importer"')
    house.services.close()
    assert {"registered"} == set(house.services.kit.components.get_stats()["components"].values())


def test_pages_and_queries_are_measured(house):
    """What was opened is counted."""
    admin = house.admin()
    for _ in range(3):
        admin.get("/paints")
    html = admin.get("/admin/system").text
    row = re.search(r'data-measure="page catalogue.index">[^<]*</th><td[^>]*>(\d+)<', html)
    assert "3" == row[1]
    assert 'data-measure="query page"' in html
