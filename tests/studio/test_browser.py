"""The pages in a real browser: they load without a complaint, with and without JavaScript, and do not jump."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from studio.catalogue.generator import generate
from tests.studio.house import NAME, PASSWORD, House

# Milliseconds; the browser draws, loads and focuses when it gets to it, which may be after the page's load.
PATIENCE = 90_000

# Each opens many pages, which takes a minute or two where much else runs.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def database_url(tmp_path, _empty_sqlite) -> str:
    """One database is enough here."""
    path = tmp_path / "studio.sqlite3"
    path.write_bytes(_empty_sqlite.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture
def url(house: House) -> Iterator[str]:
    """The address of a studio with some paints."""
    house.stock_up(generate(120))
    server = make_server("127.0.0.1", 0, house.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def opened(browser: Browser, url: str, **options) -> tuple[Page, list[str]]:
    """A page, and what the browser complains about from now on."""
    page, complaints = browser.new_page(base_url=url, **options), []
    page.set_default_timeout(PATIENCE)
    page.on(
        "console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "requestfailed", lambda failed: complaints.append(failed.url) if not left_behind(failed) else None
    )
    return page, complaints


def left_behind(request) -> bool:
    """Whether a picture was still on its way when its page was left."""
    return request.failure == "net::ERR_ABORTED"


def log_in(page: Page) -> None:
    page.goto("/login")
    page.fill("#name", NAME)
    page.fill("#password", PASSWORD)
    page.click("main button")
    page.wait_for_url("**/paints")


def shot(page: Page, name: str) -> None:
    """Leave a picture for people to look at, where they asked for it."""
    page.wait_for_load_state("networkidle")
    if folder := os.environ.get("STUDIO_SHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_load_without_a_complaint(browser, url, scheme):
    """List, detail, edit and system page: nothing refused, nothing missing, no error, in light and dark."""
    page, complaints = opened(browser, url, color_scheme=scheme)
    log_in(page)
    for name, path in (
        ("list", "/paints"),
        ("detail", "/paints/7"),
        ("edit", "/paints/7/edit"),
        ("import", "/import"),
        ("system", "/admin/system"),
    ):
        assert 200 == page.goto(path).status
        shot(page, f"{name}-{scheme}")
        assert scheme == page.evaluate("document.documentElement.dataset.bsTheme")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is too wide"
    assert [] == complaints


def test_pictures_do_not_move_the_page(browser, url):
    """Each picture has its place before it comes, filled with the paint's colour: no layout shift."""
    page, _ = opened(browser, url)
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver(list => { for (const e of list.getEntries()) window.shift += e.value })"
        ".observe({type: 'layout-shift', buffered: true})"
    )
    page.goto("/paints")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("window.shift") < 0.02
    card = page.locator(".paint img").first
    assert (
        page.evaluate("i => getComputedStyle(i).backgroundColor", card.element_handle())
        != "rgb(136, 136, 136)"
    )
    expect(card).to_have_js_property("naturalWidth", 640, timeout=PATIENCE)


def test_everything_works_without_javascript(browser, url):
    """Search, filter, pages, a move of stock and an edit need no script."""
    page, complaints = opened(browser, url, java_script_enabled=False)
    log_in(page)
    page.fill("#q", "a")
    page.click("text=Show")
    assert "q=a" in page.url
    page.select_option("#limit", "24")
    page.click("text=Show")
    page.click("text=Next")
    assert "cursor=" in page.url
    page.goto("/paints/7")
    before = int(page.inner_text("[data-stock]"))
    page.click("[aria-label='Add five']")
    assert before + 5 == int(page.inner_text("[data-stock]"))
    page.click("text=Edit")
    page.fill("#name", "Renamed without a script")
    page.click("main form >> text=Save")
    assert "Renamed without a script" == page.inner_text("h1")
    assert [] == complaints


def test_the_phone_has_room(browser, url):
    """Nothing is wider than a small screen."""
    page, complaints = opened(browser, url, viewport={"width": 360, "height": 740})
    for name, path in (("list", "/paints"), ("detail", "/paints/7"), ("login", "/login")):
        page.goto(path)
        shot(page, f"{name}-phone")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    assert [] == complaints


def test_the_colour_shows_while_it_is_typed(browser, url):
    """With scripts, the preview follows the field, and the policy does not object."""
    page, complaints = opened(browser, url)
    log_in(page)
    page.goto("/paints/new")
    page.fill("#hex", "#C0FFEE")
    seen = page.evaluate("getComputedStyle(document.querySelector('[data-hex-preview]')).backgroundColor")
    assert "rgb(192, 255, 238)" == seen
    assert [] == complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_who_types_sees_where(browser, url, scheme):
    """A field with the focus has a ring, and the ground that it had before."""
    page, _ = opened(browser, url, color_scheme=scheme, reduced_motion="reduce")
    look = (
        "i => { const s = getComputedStyle(i); return [s.outlineStyle, s.outlineWidth, s.backgroundColor] }"
    )
    page.goto("/paints")
    for field in ("#q", "#brand"):
        before = page.eval_on_selector(field, look)
        page.focus(field)
        assert ["solid", "3px", before[2]] == page.eval_on_selector(field, look), field


def test_the_login_waits_for_what_is_missing(browser, url):
    """First for the name; after a wrong password, for the password."""
    page, _ = opened(browser, url)
    page.goto("/login")
    expect(page.locator("#name")).to_be_focused(timeout=PATIENCE)
    page.fill("#name", NAME)
    page.fill("#password", "wrong")
    with page.expect_navigation():
        page.click("main >> text=Log in >> nth=-1")
    expect(page.locator("#password")).to_be_focused(timeout=PATIENCE)
