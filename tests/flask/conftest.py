"""An app as a user would write it."""

import pytest
from flask import Flask

from paintkit.sqlalchemy import DatabaseConnectionManager


@pytest.fixture
def app():
    app = Flask("studio")
    app.config["PAINTKIT_READY_TIMEOUT"] = 60.0  # what answers is well, however long the machine takes
    return app


@pytest.fixture
def db(tmp_path):
    manager = DatabaseConnectionManager(f"sqlite:///{tmp_path / 'studio.db'}")
    yield manager
    manager.close()
