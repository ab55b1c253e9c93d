"""What a database URL says."""

import sys

import pytest
from sqlalchemy import make_url

from paintkit.sqlalchemy.urls import is_async, normalized_url


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("postgres://u:p@host/db", "postgresql+psycopg"),
        ("postgresql://u:p@host/db", "postgresql+psycopg"),
        ("postgresql+psycopg://u:p@host/db", "postgresql+psycopg"),
        ("mysql://u:p@host/db", "mysql+pymysql"),
        ("mariadb://u:p@host/db", "mariadb+pymysql"),
        ("sqlite:///paints.db", "sqlite"),
    ],
)
def test_the_driver_is_named(given: str, driver: str) -> None:
    """A URL without a driver gets the tested one, the rest stays; `postgres://` is understood."""
    url = normalized_url(given)
    assert driver == url.drivername
    assert make_url(given).set(drivername=driver) == url
    assert url == normalized_url(url)


@pytest.mark.parametrize("given", ["", "studio", "nosuch://host/db", "postgres:s3cret", "sqlite+nosuch://"])
def test_what_is_no_url_is_refused_without_repeating_it(given: str) -> None:
    """What is no database URL is a ValueError that tells the form and does not repeat what may be a password."""
    with pytest.raises(ValueError, match="dialect") as caught:
        normalized_url(given)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("dialect", "package"),
    [
        ("postgresql+pg8000", "pg8000"),
        ("mysql+mysqldb", "mysqlclient"),
        ("mysql+mysqlconnector", "mysql-connector-python"),
    ],
)
def test_missing_driver_is_named(dialect: str, package: str) -> None:
    """A driver that is not installed is named by the package that brings it."""
    with pytest.raises(ValueError, match=f"pip install {package}"):
        normalized_url(f"{dialect}://host/db")


def test_missing_driver_of_an_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What paintkit's own extras bring is installed by these."""
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(ValueError, match=r"pip install 'paintkit\[mysql\]'"):
        normalized_url("mysql://host/db")


@pytest.mark.parametrize("given", [None, 5, b"sqlite://"])
def test_wrong_kind(given: object) -> None:
    """What is neither a string nor a URL is a TypeError."""
    with pytest.raises(TypeError):
        normalized_url(given)


def test_colour_of_a_url() -> None:
    """Only a driver that works under asyncio alone makes a URL async; psycopg's serves both."""
    urls = ["sqlite+aiosqlite://", "sqlite://", "postgresql+psycopg://h/d", "postgresql+psycopg_async://h/d"]
    assert [True, False, False, True] == [is_async(normalized_url(url)) for url in urls]
