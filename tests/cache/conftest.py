"""What the tests of the cache share."""

import pytest

from paintkit import CacheManager


@pytest.fixture
def cache() -> CacheManager:
    """A manager of this test's own."""
    return CacheManager("test")
