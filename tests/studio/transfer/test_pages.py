"""Laws of the import and the export."""

import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from studio.catalogue.generator import generate
from studio.catalogue.records import FINISHES, PaintFields, clean, has_control
from studio.transfer.csv_in import parse
from tests.studio.house import House, Visitor, paint, text_of

HEADER = "brand,range,name,code,hex\n"


def upload(visitor: Visitor, data: str | bytes):
    data = data if isinstance(data, bytes) else data.encode()
    file = (io.BytesIO(data), "paints.csv")
    return visitor.client.post("/import", data={"csrf_token": visitor.token(), "file": file})


def ticket(html: str) -> str:
    return html.partition('name="ticket" value="')[2].partition('"')[0]


def statements_of(house: House) -> list[str]:
    """What the house says to its database from now on."""
    heard: list[str] = []
    event.listen(house.services.kit.db.engine, "before_cursor_execute", lambda *args: heard.append(args[2]))
    return heard


def writing(statements: list[str]) -> list[str]:
    return [text for text in statements if not text.startswith(("SELECT", "BEGIN", "SET LOCAL", "PRAGMA"))]


def test_check_then_import(house):
    """The dry run says what would happen and writes nothing; the import does it, with the same file."""
    admin, heard = house.admin(), statements_of(house)
    answer = upload(admin, HEADER + "Alder,Core,Moss,A1,#336633\nAlder,Core,Sky,,336699\n")
    assert "New 2 Changed 0 Unchanged 0" in text_of(answer.text)
    assert [] == writing(heard)
    assert "0 paints" in text_of(admin.get("/paints").text)
    answer = admin.send("/import/apply", {"ticket": ticket(answer.text)}, follow_redirects=True)
    assert "2 added, 0 changed, 0 unchanged." in answer.text
    assert all(name in answer.text for name in ("Moss", "Sky"))
    again = upload(admin, HEADER + "Alder,Core,Moss,A1,#336633\n")
    assert "New 0 Changed 0 Unchanged 1 There is nothing to import." in text_of(again.text)


def test_a_bad_row_stops_everything(house):
    """Every bad row is listed with its line; nothing is stored and there is nothing to apply."""
    admin = house.admin()
    answer = upload(admin, HEADER + "Alder,,Moss,,#336633\nAlder,,,,#336633\nAlder,,Sky,,blue\n")
    text = text_of(answer.text)
    assert 422 == answer.status_code
    assert "2 of 3 rows are bad: nothing was imported" in text
    assert "3 name is empty 4 'blue' is no colour" in text
    assert "" == ticket(answer.text)
    assert "0 paints" in text_of(admin.get("/paints").text)


def test_a_ticket_is_good_once(house):
    """After the import, or for a ticket of one's own making, the file has to be chosen again."""
    admin = house.admin()
    answer = upload(admin, HEADER + "Alder,,Moss,,#336633\n")
    values = {"ticket": ticket(answer.text)}
    assert 303 == admin.send("/import/apply", values).status_code
    for wrong in (values, {"ticket": "../secret-key"}, {"ticket": "0" * 64}, {}):
        answer = admin.send("/import/apply", wrong)
        assert (409, True) == (answer.status_code, "choose it again" in answer.text)


def test_no_file_is_no_crash(house):
    """A form without a file asks for one."""
    admin = house.admin()
    assert 422 == admin.send("/import", {}).status_code


def test_a_file_too_big_is_413(house):
    """The cap in bytes holds before the file is read."""
    admin = house.admin()
    house.app.config["MAX_CONTENT_LENGTH"] = 256 * 1024
    answer = upload(admin, b"x" * 256 * 1024)
    assert (413, True) == (answer.status_code, "0.25 MB at most" in answer.text)


@pytest.mark.parametrize("length", [64, 71])
def test_every_file_below_the_cap_is_read(house, length):
    """However its lines lie in the portions that the server reads: a line's end may be a border's beginning."""
    line = f"Alder,Core,{'x' * (length - 12)}\n"
    answer = upload(house.admin(), "nothing,we,know\n" + line * (450_000 // length))
    assert (422, True) == (answer.status_code, "are missing" in text_of(answer.text))


def test_columns_decide_what_changes(house):
    """A file changes what it has columns for; a change of stock is a move in the history."""
    house.stock_up([paint("Moss", stock=3, price_cents=250, description="Mine")])
    with house.app.app_context():
        report = house.services.importer.apply(
            b"brand,range,name,code,hex,stock\nAlder,Core,Moss,A1,#336633,5\n"
        )
    assert (1, 0, 1, 0) == report[:4]
    page = text_of(house.visitor().get("/paints/1").text)
    assert all(part in page for part in ("5 in stock", "+2 import", "2.50", "Mine"))


def test_a_real_sized_catalogue(house):
    """9,908 rows, twins among them, give 9,908 paints; once more, they are all unchanged and nothing is written."""
    paints = generate(9908, stocked=False)
    rows = "".join(f'"{p.brand}","{p.range}","{p.name}","{p.code}",{p.hex}\n' for p in paints)
    data = (HEADER + rows).encode()
    with house.app.app_context():
        assert (9908, 9908, 0, 0) == house.services.importer.apply(data)[:4]
        heard, published = statements_of(house), house.services.kit.bus.get_stats()["published"]
        assert (9908, 0, 0, 9908) == house.services.importer.apply(data)[:4]
    assert ([], True) == (writing(heard), bool(heard))
    assert published == house.services.kit.bus.get_stats()["published"]
    assert "9 908 paints" in text_of(house.visitor().get("/paints").text)


def test_all_or_nothing_when_the_database_objects(house, monkeypatch):
    """When the last part fails, the first is not stored either, and the page says what happened."""
    admin = house.admin()
    answer = upload(admin, HEADER + "Alder,,Moss,,#336633\n")
    with house.app.app_context():  # somebody stores the same paint after the comparison, before the insert
        importer = house.services.importer
        monkeypatch.setattr(importer, "_plan", _then(importer._plan, lambda: _insert_behind(house)))
    answer = admin.send("/import/apply", {"ticket": ticket(answer.text)})
    assert 409 == answer.status_code
    assert "Somebody stored some of these paints meanwhile" in answer.text


def _then(plan, act):
    def both(parsed):
        found = plan(parsed)
        act()
        return found

    return both


def _insert_behind(house):
    from sqlalchemy import insert

    from studio.catalogue.writes import as_columns
    from studio.models import Brand, Paint

    session = house.services.kit.db.session
    fields = paint("Moss", range="", code="")
    brand = session.execute(insert(Brand).values(name="Alder").returning(Brand.id)).scalar_one()
    session.execute(insert(Paint).values(as_columns(fields, brand)))


TEXT = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    .map(clean)
    .filter(lambda text: not has_control(text))
)
LIVE = st.sampled_from(["=", "+", "-", "@", "'", "'=", "''", ","])
CELLS = st.builds(lambda lead, text: clean(lead + text), LIVE | st.just(""), TEXT)
PAINTS = st.builds(
    PaintFields,
    brand=CELLS.filter(bool),
    range=CELLS,
    code=CELLS,
    name=CELLS.filter(bool),
    hex=st.integers(0, 0xFFFFFF).map("#{:06X}".format),
    finish=st.sampled_from(FINISHES),
    stock=st.integers(0, 50),
    min_stock=st.integers(0, 5),
    price_cents=st.integers(0, 10_000),
    description=st.just("") | st.just('two\nlines, and "quotes"') | CELLS,
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(PAINTS, min_size=1, max_size=5, unique_by=lambda fields: fields.identity))
def test_an_export_imports_exactly(house, paints):
    """What was exported, formulas made harmless, comes back as it was, to the letter; and imports as unchanged."""
    house.stock_up(paints)
    data = house.visitor().get("/export.csv").data
    for line in data.decode().splitlines()[1:]:
        assert not line.startswith(("=", "+", "-", "@"))
    parsed = parse(data, max_rows=1000)
    assert () == parsed.problems
    assert set(paints) <= {row.fields for row in parsed.rows}
    with house.app.app_context():
        report = house.services.importer.apply(data)
    assert (len(parsed.rows), 0) == (report.unchanged, report.changed)
