"""The form of a paint. What makes a paint valid is `records.read_paint`'s to say, for a form as for a file."""

from __future__ import annotations

from typing import Self

from flask_wtf import FlaskForm
from typing_extensions import override
from wtforms import HiddenField, SelectField, StringField, TextAreaField

from studio.catalogue.records import FINISHES, PaintDetail, PaintFields, read_paint
from studio.problems import sentence
from studio.transfer.csv_out import price

__all__ = ["PaintForm"]

_ENTERED = ("brand", "range", "code", "name", "hex", "finish", "stock", "min_stock", "price", "description")


class PaintForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    """What a person enters about a paint."""

    brand = StringField("Brand")
    range = StringField("Range")
    code = StringField("Code")
    name = StringField("Name")
    hex = StringField("Colour")
    finish = SelectField("Finish", choices=list(FINISHES))  # type: ignore[arg-type]  # the stubs know pairs alone
    stock = StringField("In stock", default="0")
    min_stock = StringField("Warn at", default="0")
    price = StringField("Price", default="0.00")
    description = TextAreaField("Notes")
    version = HiddenField(default="0")

    @classmethod
    def of(cls, paint: PaintDetail) -> Self:
        """Return the form filled with a paint; what was posted wins."""
        values = {name: str(value) for name, value in paint.fields._asdict().items()}
        return cls(data=values | {"price": price(paint.fields.price_cents), "version": str(paint.version)})

    @property
    def paint(self) -> PaintFields | None:
        """The paint that was entered, `None` if something is wrong."""
        return self._read()[0]

    @property
    def version_number(self) -> int:
        """The version that the person saw; 0, which no paint has, if the field was tampered with."""
        text = self.version.data or ""
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0

    @override
    def validate(self, extra_validators: object = None) -> bool:
        """Judge the fields, and say what is wrong beside each."""
        is_genuine = super().validate(extra_validators)
        problems = self._read()[1]
        for name, reason in problems.items():
            field = self[name]
            # A file calls the field by its column, a form by its label.
            said = field.label.text + reason.removeprefix(name) if reason.startswith(name) else reason
            field.errors = [*field.errors, sentence(said)]
        return is_genuine and not problems

    def _read(self) -> tuple[PaintFields | None, dict[str, str]]:
        return read_paint({name: self[name].data or "" for name in _ENTERED})
