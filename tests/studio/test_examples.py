"""The examples in the studio's own documentation are true."""

import doctest
import importlib
import pkgutil

import pytest

import studio

MODULES = [
    found.name
    for found in pkgutil.walk_packages(studio.__path__, "studio.")
    # These do something when they are imported: they are run by others.
    if "migrations" not in found.name and not found.name.endswith(("__main__", "wsgi"))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    """Every example in a docstring gives what it says."""
    assert 0 == doctest.testmod(importlib.import_module(name)).failed


def test_there_are_examples():
    """The search above finds modules."""
    assert {"studio.colour", "studio.transfer.cells"} <= set(MODULES)
