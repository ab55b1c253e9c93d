"""The outbox keeps the contract of transports; each process has a manager and a pool of its own."""

import contextlib

import pytest
from sqlalchemy import delete

from paintkit import backoff
from paintkit.sqlalchemy import DatabaseConnectionManager, Outbox
from paintkit.testing import TransportContract


@pytest.mark.parametrize("url", ["sqlite-file", "postgres", "mariadb"], indirect=True)
class TestOutbox(TransportContract):
    """It carries no broadcasts, and the manager is blocking."""

    kinds = ("work",)
    runs_coroutines = False

    @pytest.fixture(autouse=True)
    def database(self, url):
        self.url = url

    @contextlib.contextmanager
    def network(self):
        made = []

        def connect():
            db = DatabaseConnectionManager(self.url)
            made.append(Outbox(db, backoff=backoff.constant(0.005), max_attempts=3))
            if len(made) == 1:
                made[0].create_tables()
                with db.unit_of_work() as session:
                    for table in made[0].store.tables:
                        session.execute(delete(table))
            return made[-1]

        try:
            yield connect
        finally:
            for outbox in made:
                outbox.db.close()

    def unit_of_work(self, transport):
        return transport.db.unit_of_work()

    def deliver(self, transports):
        for outbox in transports:
            outbox.run_once()
