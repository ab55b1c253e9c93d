"""Lays a module open to mutmut, which changes only what stands in the body of an undecorated function."""

import re

_PROPERTY = re.compile(r"^    @property\n    def (\w+)\(self\)", re.MULTILINE)
_CONSTANT = re.compile(r"^(_[A-Z_]+) = ([\d.e-]+)$", re.MULTILINE)


def lay_open(source: str) -> str:
    """Make methods of getters, called by a property, and put the numbers of constants where they are used."""
    for name, value in _CONSTANT.findall(source):
        source = re.sub(rf"\b{name}\b(?! = )", value, source)
    return _PROPERTY.sub(r"    \1 = property(lambda self: self.get_\1())\n\n    def get_\1(self)", source)
