"""Laws of wrapping bound methods."""

import pytest

from paintkit import circuit_breaker, retry


class Shelf:
    def plain(self, paint, amount=1):
        return paint, amount

    def everything(self, paint, /, amount=1, *rest, shelf=2, **others):
        return paint, amount, rest, shelf, others

    def only(self, /):
        return "only"

    def gathered(*args, **kwargs):
        return args[1:], kwargs

    @classmethod
    def made(cls, paint, amount=3):
        return cls.__name__, paint, amount


@pytest.mark.parametrize(
    "policy", [retry(on=OSError, attempts=2), circuit_breaker("shelf", failure_threshold=1)]
)
@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("plain", (1,), {}),
        ("plain", (), {"paint": 1, "amount": 2}),
        ("everything", (1, 2, 3), {"shelf": 4, "x": 5}),
        ("only", (), {}),
        ("gathered", (1, 2), {"x": 3}),
        ("made", (1,), {"amount": 2}),
    ],
)
def test_a_bound_method_keeps_its_object(policy, name, args, kwargs):
    """A policy may protect a method that is bound already, once or twice: the call is the one without the object."""
    method = getattr(Shelf(), name)
    assert method(*args, **kwargs) == policy(method)(*args, **kwargs)
    assert method(*args, **kwargs) == policy(policy(method))(*args, **kwargs)


def test_the_wrapper_of_a_bound_method_says_what_is_missing():
    """A wrong call fails in the caller's terms."""
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'paint'"):
        retry(on=OSError, attempts=2)(Shelf().plain)()
