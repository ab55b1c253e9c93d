"""The pytest plugin: fixtures for users, at no cost for those who do not use them."""

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def run(pytester, monkeypatch):
    """Run a test file with this plugin and no other."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(source: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("-p", "paintkit.testing.plugin")

    return run


def test_clock_fixture_is_active_during_the_test(run):
    """Policies obey it inside the test, and real time is back afterwards."""
    run(
        """
        import time
        from paintkit import clock

        def test_inside(paintkit_clock):
            clock.sleep(3600)
            assert 3600.0 == paintkit_clock.now()

        def test_each_test_has_its_own(paintkit_clock):
            assert 0.0 == clock.now()

        def test_outside():
            assert time.monotonic is clock.now
        """
    ).assert_outcomes(passed=3)


def test_works_beside_coroutines(run):
    """The fixture's loop runs coroutines in virtual time."""
    run(
        """
        import asyncio

        def test_inside(paintkit_clock):
            paintkit_clock.run(asyncio.sleep(3600))
            assert [3600] == paintkit_clock.sleeps
        """
    ).assert_outcomes(passed=1)


def test_query_guard_fixture_counts_statements(run):
    """A test fails if its block runs more statements than it should, and passes if not."""
    run(
        """
        import pytest
        import sqlalchemy

        @pytest.mark.parametrize("statements", [1, 2])
        def test_queries(paintkit_query_guard, statements):
            engine = sqlalchemy.create_engine("sqlite://")
            with paintkit_query_guard(max_queries=1), engine.connect() as connection:
                for _ in range(statements):
                    connection.execute(sqlalchemy.text("SELECT 1"))
            engine.dispose()
        """
    ).assert_outcomes(passed=1, failed=1)


def test_query_guard_marker_counts_statements(run):
    """A marked test fails if its body runs more statements than it should; those of its fixtures are not counted."""
    run(
        """
        import pytest
        import sqlalchemy

        @pytest.fixture
        def connection():
            engine = sqlalchemy.create_engine("sqlite://")
            with engine.connect() as connection:
                for _ in range(10):
                    connection.execute(sqlalchemy.text("SELECT 1"))
                yield connection
            engine.dispose()

        @pytest.mark.query_guard(max_queries=1)
        @pytest.mark.parametrize("statements", [1, 2])
        def test_limit(connection, statements):
            for _ in range(statements):
                connection.execute(sqlalchemy.text("SELECT 1"))

        @pytest.mark.query_guard
        def test_rows(connection):
            for number in range(5):
                connection.execute(sqlalchemy.text(f"SELECT {number}"))

        def test_unmarked(connection):
            for number in range(5):
                connection.execute(sqlalchemy.text(f"SELECT {number}"))
        """
    ).assert_outcomes(passed=2, failed=2)


def test_costs_nothing_until_used():
    """Loading the plugin loads neither the clock nor Hypothesis nor any primitive."""
    script = (
        "import pytest, sys; before = set(sys.modules); import paintkit.testing.plugin; "
        "print(sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert "['paintkit', 'paintkit.testing', 'paintkit.testing.plugin']" == loaded.strip()


def test_mutation_guard_fixture_finds_who_changes_a_shared_value(run):
    """A test that changes what a cache returned fails, others pass."""
    run(
        """
        from paintkit import CacheManager

        cache = CacheManager()

        @cache.cache_result
        def colours():
            return ["red"]

        def test_that_reads(paintkit_mutation_guard):
            assert ["red"] == colours()

        def test_that_changes(paintkit_mutation_guard):
            colours().append("blue")
            colours()
        """
    ).assert_outcomes(passed=1, failed=1)
