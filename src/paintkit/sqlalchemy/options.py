"""How a boundary behaves: its options, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from paintkit import _arguments

if TYPE_CHECKING:
    from paintkit.typing import Seconds

__all__ = ["Isolation", "Options", "Propagation"]

Propagation = Literal["required", "nested", "requires_new", "mandatory", "never"]
Isolation = Literal["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]

_PROPAGATIONS: Final = ("required", "nested", "requires_new", "mandatory", "never")
_ISOLATIONS: Final = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


@dataclass(frozen=True, slots=True)
class Options:
    """How a boundary behaves; see `DatabaseConnectionManager.unit_of_work`."""

    propagation: Propagation = "required"
    read_only: bool = False
    isolation: Isolation | None = None
    timeout: float | None = None
    rollback_if: Callable[[Any], object] | None = None

    @classmethod
    def checked(
        cls,
        propagation: Propagation,
        read_only: bool,
        isolation: Isolation | None,
        timeout: Seconds | None,
        rollback_if: Callable[[Any], object] | None,
    ) -> Options:
        """Return the options, or raise an error that names the one that is wrong."""
        given = (isolation, timeout, rollback_if)
        if propagation == "required" and read_only is False and given == (None, None, None):
            return _USUAL  # what nearly every block asks for, each time anew
        return cls(
            cast("Propagation", _arguments.choice("propagation", propagation, _PROPAGATIONS)),
            _arguments.flag("read_only", read_only),
            None
            if isolation is None
            else cast("Isolation", _arguments.choice("isolation", isolation, _ISOLATIONS)),
            _arguments.seconds_or_none("timeout", timeout, none="sets no limit"),
            None if rollback_if is None else _arguments.callback("rollback_if", rollback_if),
        )


_USUAL: Final = Options()
