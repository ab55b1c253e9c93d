"""Laws of the pictures' addresses."""

import io

from PIL import Image

from tests.studio.house import form_of, paint


def test_a_swatch_is_drawn_and_kept(house, config):
    """The first request draws it, and leaves it in the store; its headers let a browser keep it."""
    house.stock_up([paint("Moss")])
    answer = house.visitor().get("/swatches/1.webp?v=336633-matte")
    assert (200, "image/webp") == (answer.status_code, answer.mimetype)
    assert "public, max-age=31536000" == answer.headers["Cache-Control"]
    assert "nosniff" == answer.headers["X-Content-Type-Options"]
    assert (640, 480) == Image.open(io.BytesIO(answer.data)).size
    assert ["336633-matte-1.webp"] == [path.name for path in (config.data / "swatches").iterdir()]
    again = house.visitor().get("/swatches/1.webp", headers={"If-None-Match": answer.headers["ETag"]})
    assert (304, b"") == (again.status_code, again.data)


def test_a_kept_swatch_is_not_drawn_again(house, monkeypatch):
    """Once it is in the store, the pen rests."""
    house.stock_up([paint("Moss")])
    first = house.visitor().get("/swatches/1.webp").data
    monkeypatch.setattr(
        "studio.swatches.gallery.draw", lambda *_: (_ for _ in ()).throw(AssertionError("drawn"))
    )
    assert first == house.visitor().get("/swatches/1.webp").data


def test_an_unknown_swatch_is_404(house):
    """There is no picture of no paint; and none of a paint that is not there yet is remembered."""
    visitor = house.visitor()
    assert 404 == visitor.get("/swatches/1.webp").status_code
    house.admin().send("/paints/new", form_of(paint("Moss")))
    assert 200 == visitor.get("/swatches/1.webp").status_code


def test_a_new_colour_is_a_new_picture(house):
    """After an edit the swatch shows the new colour."""
    house.stock_up([paint("Moss", hex="#FF0000")])
    admin = house.admin()
    before = admin.get("/swatches/1.webp").data
    admin.send("/paints/1/edit", form_of(paint("Moss", hex="#0000FF"), version="1"))
    after = Image.open(io.BytesIO(admin.get("/swatches/1.webp").data)).convert("RGB").getpixel((320, 260))
    assert before != admin.get("/swatches/1.webp").data
    assert after[2] > after[0]
