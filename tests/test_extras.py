"""What is not installed is told with the extra that brings it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("package", "statement", "extra"),
    [
        ("redis", "from paintkit.redis import RedisLevel", "redis"),
        ("msgspec", "from paintkit.redis import RedisLevel", "redis"),
        ("redis", "from paintkit.redis import RedisStreams", "redis"),
        ("flask", "from paintkit.flask import PaintKit", "flask"),
        ("flask", "from paintkit.sqlalchemy.flask import query_budget", "flask"),
        ("prometheus_client", "import paintkit.monitor.prometheus", "prometheus"),
        ("opentelemetry", "import paintkit.monitor.opentelemetry", "opentelemetry"),
        ("hypothesis", "from paintkit.testing import strategies", "testing"),
        ("pytest", "from paintkit.testing import TransportContract", "testing"),
    ],
)
def test_a_missing_package_is_told_with_the_extra_that_brings_it(package, statement, extra):
    """Once, in the traceback, as a note."""
    code = f"import sys; sys.modules[{package!r}] = None; {statement}"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert [f"pip install 'paintkit[{extra}]'"] == [
        line for line in done.stderr.splitlines() if line.startswith("pip install")
    ]


def test_a_mistake_of_ours_is_no_missing_package():
    """An import of paintkit's own that fails has no such note."""
    code = "import sys; sys.modules['paintkit.redis.level'] = None; from paintkit.redis import RedisLevel"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert "pip install" not in done.stderr
