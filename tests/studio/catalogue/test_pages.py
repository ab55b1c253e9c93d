"""Laws of the catalogue's pages, as a visitor meets them."""

import re
import threading

import pytest

from paintkit.sqlalchemy import query_guard
from studio.catalogue.generator import generate
from tests.studio.house import form_of, paint, text_of

CARD = re.compile(r'href="/paints/(\d+)">')
NEXT = re.compile(r'rel="next" href="([^"]+)"')
PREVIOUS = re.compile(r'rel="prev" href="([^"]+)"')


def ids(html: str) -> list[int]:
    return [int(number) for number in CARD.findall(html)]


def link(pattern: re.Pattern[str], html: str) -> str | None:
    found = pattern.search(html)
    return found[1].replace("&amp;", "&") if found else None


@pytest.mark.parametrize("sort", ["name", "newest", "stock", "hue"])
def test_pages_show_every_paint_once(house, sort):
    """Walking forwards shows each paint once; walking back from the end shows the same pages again."""
    house.stock_up(generate(230))
    visitor, path, forwards = house.visitor(), f"/paints?sort={sort}&limit=48", []
    while path:
        html = visitor.get(path).text
        forwards.append(ids(html))
        last, path = path, link(NEXT, html)
    assert [48, 48, 48, 48, 38] == [len(page) for page in forwards]
    assert 230 == len({number for page in forwards for number in page})
    backwards, path = [], last
    while path:
        html = visitor.get(path).text
        backwards.append(ids(html))
        path = link(PREVIOUS, html)
    assert forwards == backwards[::-1]


def test_orders_mean_what_they_say(house):
    """Names sort by letter whatever their case, newest first, least stock first."""
    house.stock_up([paint("b", stock=2), paint("A", stock=3), paint("c", stock=1), paint("Ähre")])
    visitor = house.visitor()
    shown = {sort: ids(visitor.get(f"/paints?sort={sort}").text) for sort in ("name", "newest", "stock")}
    by_name = {
        name: int(re.search(rf'/paints/(\d+)">{name}<', visitor.get("/paints").text)[1]) for name in "bAc"
    }
    assert [by_name[name] for name in "Abc"] == shown["name"][:3]
    assert sorted(shown["newest"], reverse=True) == shown["newest"]
    assert [by_name[name] for name in "cbA"] == shown["stock"][1:]


@pytest.mark.parametrize("limit", [1, 24, 200])
def test_a_list_page_costs_three_statements_at_most(house, limit):
    """Cold, right after a write, and for the administrator: never more than three statements, at any size."""
    house.stock_up(generate(300))
    admin, visitor = house.admin(), house.visitor()
    path = f"/paints?limit={limit}&q=a"
    with query_guard(max_queries=2):
        assert limit == len(ids(visitor.get(path).text))
    with query_guard(max_queries=0):
        visitor.get(path)
    assert 303 == admin.send("/paints/1/stock", {"delta": "1"}).status_code
    with query_guard(max_queries=3) as guard:
        admin.get(path)
    assert 3 == len(guard.statements)


def test_filters_find_what_they_say(house):
    """Search, brand and stock filter narrow the list, together and alone, and the count says how many there are."""
    house.stock_up(
        [
            paint("Moss", stock=5, min_stock=1),
            paint("Deep Moss", stock=1, min_stock=1),
            paint("Sky", brand="Birch", code="50%", stock=0),
            paint("Straße", brand="Birch", range="Fog_Line"),
        ]
    )
    visitor = house.visitor()

    def found(query: str) -> list[str]:
        return sorted(
            re.findall(r'class="paint-name" href="[^"]+">([^<]+)<', visitor.get(f"/paints?{query}").text)
        )

    assert ["Deep Moss", "Moss"] == found("q=MOSS")
    assert ["Deep Moss"] == found("q=moss+deep")
    assert ["Sky"] == found("q=50%25")
    assert [] == found("q=5_%25")
    assert ["Straße"] == found("q=strasse") == found("q=g_l")
    assert ["Sky", "Straße"] == found("brand=Birch") == found("stock=out")
    assert ["Deep Moss"] == found("stock=low")
    assert ["Deep Moss", "Moss"] == found("stock=in")
    assert [] == found("stock=in&brand=Birch")
    assert "2 paints" in text_of(visitor.get("/paints?brand=Birch").text)


@pytest.mark.parametrize("query", ["sort=x", "limit=0", "cursor=%00", "stock=x", "q=" + "x" * 101, "q=%00"])
def test_a_senseless_address_is_400(house, query):
    """The page says what is wrong."""
    answer = house.visitor().get(f"/paints?{query}")
    assert 400 == answer.status_code
    assert "That did not make sense" in answer.text


@pytest.mark.parametrize("number", ["0", "99", "2147483648", "99999999999999999999", "x"])
def test_an_unknown_paint_is_404(house, number):
    """Whatever stands for the number."""
    assert 404 == house.visitor().get(f"/paints/{number}").status_code


def test_a_new_paint_is_there_at_once(house):
    """After the redirect the list, the search and its own page show it."""
    admin, visitor = house.admin(), house.visitor()
    assert 0 == len(ids(visitor.get("/paints").text))
    answer = admin.send(
        "/paints/new", form_of(paint("Moss", stock=2, price_cents=305, description="Two\nlines"))
    )
    page = visitor.get(answer.location)
    assert (303, 200) == (answer.status_code, page.status_code)
    assert all(part in page.text for part in ("Moss", "#336633", "3.05", "Two\nlines", "first stock"))
    assert 1 == len(ids(visitor.get("/paints").text))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("name", " ", "Name is empty."),
        ("hex", "green", "six hexadecimal digits"),
        ("brand", "x" * 81, "Brand is longer than 80 characters."),
        ("price", "-1", "Price must be an amount"),
        ("min_stock", "many", "Warn at must be a whole number"),
        ("hex", "", "Colour is empty."),
        ("finish", "shiny", "is no finish"),
    ],
)
def test_a_bad_form_keeps_its_input(house, field, value, complaint):
    """The mistake is named beside its field, everything entered is still there, nothing is stored."""
    answer = house.admin().send("/paints/new", form_of(paint("Keep me")) | {field: value})
    assert 422 == answer.status_code
    assert complaint in text_of(answer.text)
    if field != "name":
        assert 'value="Keep me"' in answer.text
    assert [] == ids(house.visitor().get("/paints").text)


def test_a_twin_is_refused_and_a_near_twin_is_not(house):
    """Two paints may differ by their colour alone, but not be the same."""
    house.stock_up([paint("Moss")])
    admin = house.admin()
    answer = admin.send("/paints/new", form_of(paint("Moss")))
    assert 409 == answer.status_code
    assert "There is such a paint already" in answer.text
    assert 303 == admin.send("/paints/new", form_of(paint("Moss", hex="#336634"))).status_code
    answer = admin.send("/paints/1/edit", form_of(paint("Moss", hex="#336634"), version="1"))
    assert 409 == answer.status_code


def test_the_second_editor_is_told(house):
    """Who saves later sees the other's values beside the own input, and saving again is then accepted."""
    house.stock_up([paint("Moss")])
    first, second = house.admin(), house.admin()
    assert 303 == first.send("/paints/1/edit", form_of(paint("Fern"), version="1")).status_code
    answer = second.send("/paints/1/edit", form_of(paint("Ivy"), version="1"))
    assert 409 == answer.status_code
    assert "Somebody changed this paint" in answer.text
    assert all(part in answer.text for part in ("Fern", 'value="Ivy"', 'value="2"'))
    assert 303 == second.send("/paints/1/edit", form_of(paint("Ivy"), version="2")).status_code
    assert "Ivy" in house.visitor().get("/paints/1").text


def test_an_edit_does_not_move_the_stock(house):
    """Stock changes by moves alone, whatever a form says."""
    house.stock_up([paint("Moss", stock=3)])
    admin = house.admin()
    assert 303 == admin.send("/paints/1/edit", form_of(paint("Moss", stock=99), version="1")).status_code
    assert "data-stock>3<" in admin.get("/paints/1").text


def test_a_move_shows_in_the_history(house):
    """A move changes the stock and says how much, why and who."""
    house.stock_up([paint("Moss", stock=3)])
    admin = house.admin()
    assert 303 == admin.send("/paints/1/stock", {"delta": "-2", "reason": "Dragon's wing"}).status_code
    page = text_of(admin.get("/paints/1").text)
    assert "\u22122 Dragon's wing admin" in page
    assert "1 in stock" in page


@pytest.mark.parametrize("delta", ["0", "x", "1.5", "1001", "-1001", "", "--1", "+-1", "99999999999", "١"])
def test_a_senseless_move_is_400(house, delta):
    """Only whole numbers from -1000 to 1000 move stock."""
    house.stock_up([paint("Moss", stock=3)])
    assert 400 == house.admin().send("/paints/1/stock", {"delta": delta}).status_code


def test_the_shelf_cannot_be_overdrawn(house):
    """Ten people take one of three bottles each, at once: three succeed, the history has three moves, nothing is left."""
    house.stock_up([paint("Moss", stock=3)])
    people, start, codes = [house.admin() for _ in range(10)], threading.Barrier(10), []
    tokens = [person.token() for person in people]

    def take(person, token):
        start.wait(60)
        codes.append(
            person.client.post("/paints/1/stock", data={"csrf_token": token, "delta": "-1"}).status_code
        )

    threads = [threading.Thread(target=take, args=pair) for pair in zip(people, tokens, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [303] * 3 + [409] * 7 == sorted(codes)
    page = house.visitor().get("/paints/1").text
    assert (3, True) == (page.count(">\u22121<"), "data-stock>0<" in page)


def test_a_deleted_paint_is_gone_with_its_history(house):
    """Its page is 404, and no later paint takes over its number."""
    house.stock_up([paint("Moss", stock=1)])
    admin = house.admin()
    assert 409 == admin.send("/paints/1/delete", {"version": "7"}).status_code
    assert 200 == admin.get("/paints/1").status_code
    assert 303 == admin.send("/paints/1/delete", {"version": "1"}).status_code
    assert 404 == admin.get("/paints/1").status_code
    assert "/paints/2" == admin.send("/paints/new", form_of(paint("Moss"))).location
    for path, values in (
        ("stock", {"delta": "1"}),
        ("delete", {"version": "1"}),
        ("edit", form_of(paint("Moss"))),
    ):
        assert 404 == admin.send(f"/paints/1/{path}", values).status_code


def test_names_are_text_not_markup(house):
    """What somebody enters is shown as it was entered."""
    house.stock_up([paint("<script>alert(1)</script>", brand='"><b>', description="<i>")])
    for path in ("/paints", "/paints/1"):
        html = house.visitor().get(path).text
        assert "<script>alert" not in html
        assert "&lt;script&gt;alert(1)" in html
        assert '"><b>' not in html
