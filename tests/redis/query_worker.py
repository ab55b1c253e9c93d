"""A process with a query cache whose manager has a Redis level, driven over pipes: a line says what to write, and is answered."""

import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, Table, select, text, update

from paintkit import CacheManager
from paintkit.redis import RedisLevel
from paintkit.sqlalchemy import DatabaseConnectionManager, FromCache, QueryCache

ROOT = Path(__file__).parents[2]

metadata = MetaData()
paint = Table("paint", metadata, Column("id", Integer, primary_key=True), Column("stock", Integer))
STOCK = select(paint.c.stock).options(FromCache(timeout=None))


class Shelf:
    """One row of a file that all processes open, read through a query cache that forgets nothing by itself."""

    def __init__(self, url, file):
        self.level = RedisLevel(url)
        self.db = DatabaseConnectionManager(f"sqlite:///{file}")
        self.queries = QueryCache(self.db, CacheManager("queries", level2=self.level))

    def stock(self):
        """Return what the query says, or said."""
        with self.db.unit_of_work(read_only=True) as session:
            return session.scalars(STOCK).one()

    def write(self, stock, *, known):
        """Write a number, in a way that tells which table that is or in one that does not."""
        with self.db.unit_of_work() as session:
            session.execute(
                update(paint).values(stock=stock) if known else text(f"UPDATE paint SET stock = {stock}")
            )

    def close(self):
        """Hear no more."""
        self.level.close()
        self.db.close()


class Worker:
    """The test's end of the pipes."""

    def __init__(self, url, file):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.redis.query_worker", url, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()

    def write(self, stock, *, known=True):
        """Let the process write, and wait until it has committed."""
        self.process.stdin.write(f"{stock} {known}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "stored\n"


if __name__ == "__main__":
    shelf = Shelf(*sys.argv[1:])
    for line in sys.stdin:
        number, is_known = line.split()
        shelf.write(int(number), known=is_known == "True")
        sys.stdout.write("stored\n")
        sys.stdout.flush()
