"""The laws of copies: who asked for one may do with it as he likes."""

import contextlib

import pytest


class Shelf:
    def __init__(self):
        self.rows = ["red"]


@pytest.mark.parametrize("copy", ["share", "shallow", "deep"])
@pytest.mark.parametrize("way", ["hit", "load", "refresh", "peek", "put", "other key", "memo"])
def test_how_much_callers_share(cache, colour, copy, way):
    """T19: on every way out of the cache, and in by `put`, what one holds is what the next holds, or a copy."""
    load = cache.cache_result(copy=copy)(colour.function(lambda key=1: Shelf()))
    key = (1,) if way == "other key" else 1
    first = colour.call(load, key)
    match way:
        case "refresh":
            first = colour.call(load.refresh, key)
        case "put":
            first = Shelf()
            colour.call(load.put, first, key)
    with cache.memo() if way == "memo" else contextlib.nullcontext():
        if way == "memo":
            first = colour.call(load, key)
        second = colour.call(load.peek if way == "peek" else load, key)
    assert (copy == "share") == (first is second)
    assert (copy != "deep") == (first.rows is second.rows)
    if copy == "deep":
        first.rows.append("blue")
        second.rows.append("green")
        assert ["red"] == colour.call(load, key).rows


def test_a_copy_that_fails_is_told_and_harms_nobody(cache, colour):
    """What cannot be copied raises for whoever wants a copy."""

    class Stubborn:
        def __deepcopy__(self, memo):
            raise TypeError("no copies")

    load = cache.cache_result(copy="deep")(colour.function(Stubborn))
    for _ in range(2):
        with pytest.raises(TypeError, match="no copies"):
            colour.call(load)


@pytest.mark.parametrize(("copy", "error"), [(True, TypeError), ("all", ValueError)])
def test_bad_choices_are_refused(cache, copy, error):
    """At decoration."""
    with pytest.raises(error, match="copy must be one of 'share', 'shallow', 'deep'"):
        cache.cache_result(copy=copy)
