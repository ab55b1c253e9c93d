"""An app as a user would write it."""

import pytest
from flask import Flask

from paintkit.sqlalchemy import DatabaseConnectionManager


@pytest.fixture
def app():
    return Flask("studio")


@pytest.fixture
def db(tmp_path):
    manager = DatabaseConnectionManager(f"sqlite:///{tmp_path / 'studio.db'}")
    yield manager
    manager.close()
