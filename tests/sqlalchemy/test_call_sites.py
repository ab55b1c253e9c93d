"""Which line of the application caused what SQLAlchemy does."""

import asyncio
from pathlib import Path

import jinja2
import pytest
import sqlalchemy

import paintkit
from paintkit.sqlalchemy.call_sites import is_caller

FOLDERS = [Path(one.__file__).parent for one in (paintkit, sqlalchemy, jinja2)]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_engine_room_is_no_caller(folder: Path) -> None:
    """Code of paintkit, SQLAlchemy and Jinja does as it is told; of a package beside them whose name begins so, it does not."""
    assert not is_caller(str(folder / "engine" / "base.py"))
    assert is_caller(str(folder.with_name(f"{folder.name}_shop") / "views.py"))


def test_other_packages_are_callers_and_the_standard_library_is_not() -> None:
    """Third-party packages lie in the standard library's folder, and act of their own will all the same."""
    assert is_caller(pytest.__file__)
    assert is_caller(__file__)
    assert not is_caller(asyncio.__file__)
    assert not is_caller("<string>")
