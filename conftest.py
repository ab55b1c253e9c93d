"""What every test session shares: documentation that runs, and how hard Hypothesis looks."""

import contextlib
import os
from typing import Any

import redis
from hypothesis import HealthCheck, Phase, settings
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser


def _leave_no_keys(namespace: dict[str, Any]) -> None:
    """Take out of Redis, if it is there, what the cache `shop` of a page has left: tokens, which would stand for days."""
    if "level" in namespace and "shop" in namespace:
        with contextlib.suppress(redis.RedisError), redis.Redis() as client:
            for key in client.scan_iter("paintkit:{shop}:*"):
                client.delete(key)


_documents = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    teardown=_leave_no_keys,
)
_docstrings = Sybil(
    parsers=[DocTestParser()],
    # One pattern for each depth: `**` stands for a single folder before Python 3.13.
    patterns=["src/*/*.py", "src/*/*/*.py", "src/*/*/*/*.py"],
    document_types={".py": PythonDocStringDocument},
)
pytest_collect_file = (_documents + _docstrings).pytest()

# One budget of examples for everybody; CI searches the same ones in every run, a developer new ones.
settings.register_profile("dev", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, database=None)
# A mutant is caught or not, always alike; which example caught it does not matter.
settings.register_profile("mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
settings.load_profile("ci" if os.environ.get("CI") else "dev")
