"""What a query loaded, as plain data without a session, and how it is rebuilt in another session."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import inspect
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.collections import collection_adapter
from sqlalchemy.orm.state import InstanceState

if TYPE_CHECKING:
    from sqlalchemy.engine import FrozenResult, Result
    from sqlalchemy.orm import Mapper, Session

__all__ = ["LEAVES", "Snapshot", "take"]

#: Types of values that nobody can change.
LEAVES: Final = frozenset(
    {
        *(type(None), bool, int, float, complex, str, bytes, Decimal, UUID),
        *(dt.date, dt.datetime, dt.time, dt.timedelta),
    }
)

# These hand out a query instead of holding their members.
_NEVER_LOADED: Final = frozenset({"dynamic", "write_only"})


class _Reference(NamedTuple):
    """Stands for the mapped object with this number."""

    number: int


class _Node(NamedTuple):
    """A mapped object: its identity key, its column values, and its loaded relationships as references.

    `changeable` names the values that somebody could change, of which everybody gets a copy; `missing` the columns that were
    not loaded.
    """

    key: Any
    kind: type[Any]
    columns: dict[str, Any]
    changeable: tuple[str, ...]
    missing: frozenset[str]
    relations: dict[str, _Reference | tuple[_Reference, ...] | None]


class Snapshot(NamedTuple):
    """The rows of one result; nothing in it belongs to a session.

    Attributes:
        rows: The rows, with references in the place of mapped objects.
        nodes: Those objects, and all that were loaded with them, by number.
        shape: The result without rows.
        uniqueness: What the result demands of who reads it: `unique()` after a joined load of a collection.
        timeout: Seconds for which it may be served; `None`: for ever.
    """

    rows: tuple[tuple[Any, ...], ...]
    nodes: tuple[_Node, ...]
    shape: FrozenResult[Any]
    uniqueness: Any
    timeout: float | None

    def rebuild(self, session: Session) -> Result[Any]:
        """Return a new result, whose objects belong to `session`.

        As when the ORM loads, an object that the session holds already stays as it is; only what was not loaded in it yet
        is filled in.
        """
        objects = [_place(node, session) for node in self.nodes]
        for node, instance in zip(self.nodes, objects, strict=True):
            loaded = inspect(instance).dict
            for name, found in node.relations.items():
                if name not in loaded:
                    set_committed_value(instance, name, _resolved(found, objects))
        rows: list[Any] = [tuple(_revived(value, objects) for value in row) for row in self.rows]
        result = self.shape.with_new_rows(rows)()
        if self.uniqueness is not None:
            # SQLAlchemy's own freeze forgets this, and rows would come twice without a word.
            result._unique_filter_state = self.uniqueness
        return result


def take(result: Result[Any], timeout: float | None) -> Snapshot:
    """Read a result to its end and return it as a snapshot.

    Args:
        result: The result of a session that is given to nobody.
        timeout: Seconds for which the snapshot may be served.
    """
    uniqueness = result._unique_filter_state
    frozen = result.freeze()
    nodes = _Nodes()
    # Of a single entity SQLAlchemy keeps no rows, but what is in them.
    found = [(one,) for one in frozen.data] if frozen._source_supports_scalars else frozen.data
    rows = tuple(tuple(nodes.plain(value) for value in row) for row in found)
    return Snapshot(rows, nodes.complete(), frozen.with_new_rows([]), uniqueness, timeout)


class _Nodes:
    """Numbers mapped objects, and describes each once."""

    def __init__(self) -> None:
        self._numbers: dict[int, _Reference] = {}
        self._found: list[Any] = []

    def plain(self, value: Any) -> Any:
        """Return a value of a row as something that is nobody else's."""
        if _is_leaf(value):
            return value
        if isinstance(inspect(value, raiseerr=False), InstanceState):
            return self.refer(value)
        return copy.deepcopy(value)

    def refer(self, instance: object) -> _Reference:
        """Return the reference of a mapped object."""
        reference = self._numbers.get(id(instance))
        if reference is None:
            reference = self._numbers[id(instance)] = _Reference(len(self._found))
            self._found.append(instance)  # which also keeps its id from being another's
        return reference

    def complete(self) -> tuple[_Node, ...]:
        """Describe all objects that were referred to, and those that these refer to."""
        described: list[_Node] = []
        while len(described) < len(self._found):
            described.append(self._describe(self._found[len(described)]))
        return tuple(described)

    def _describe(self, instance: object) -> _Node:
        state: InstanceState[Any] = inspect(instance)
        mapper, loaded = state.mapper, state.dict
        columns = {one.key: _owned(loaded[one.key]) for one in mapper.column_attrs if one.key in loaded}
        relations = {
            one.key: self._relation(one.uselist, loaded[one.key])
            for one in mapper.relationships
            if one.key in loaded and one.lazy not in _NEVER_LOADED
        }
        changeable = tuple(name for name, value in columns.items() if not _is_leaf(value))
        missing = frozenset(one.key for one in mapper.column_attrs if one.key not in columns)
        return _Node(state.key, type(instance), columns, changeable, missing, relations)

    def _relation(self, many: bool | None, value: Any) -> _Reference | tuple[_Reference, ...] | None:
        if value is None:
            return None
        return tuple(map(self.refer, collection_adapter(value))) if many else self.refer(value)


def _is_leaf(value: Any) -> bool:
    return type(value) in LEAVES or isinstance(value, Enum)


def _owned(value: Any) -> Any:
    return value if _is_leaf(value) else copy.deepcopy(value)


def _place(node: _Node, session: Session) -> Any:
    """Return the session's object of this identity, made if need be."""
    known = session.identity_map.get(node.key)
    if known is None:
        return _made(node, session)
    loaded = inspect(known).dict
    for name, value in node.columns.items():
        if name not in loaded:
            set_committed_value(known, name, _owned(value))
    return known


def _made(node: _Node, session: Session) -> Any:
    mapper: Mapper[Any] = inspect(node.kind)
    # As the ORM itself makes what it loads. What is public for it (`make_transient_to_detached` and `Session.add`) looks at
    # every relationship of every object, and takes longer than a database nearby.
    instance = mapper.class_manager.new_instance()
    state: InstanceState[Any] = inspect(instance)
    state.dict.update(node.columns)
    state.dict.update({name: copy.deepcopy(node.columns[name]) for name in node.changeable})
    state.key, state.session_id = node.key, session.hash_key
    state.identity_token = node.key[2]
    session.identity_map.add(state)
    if node.missing:
        state._expire_attributes(state.dict, node.missing)
    # Composites, mutable values and `@reconstructor` begin with this event.
    state.manager.dispatch.load(state, None)
    session.dispatch.loaded_as_persistent(session, state)
    return instance


def _resolved(found: _Reference | Sequence[_Reference] | None, objects: list[Any]) -> Any:
    if isinstance(found, _Reference):
        return objects[found.number]
    return None if found is None else [objects[one.number] for one in found]


def _revived(value: Any, objects: list[Any]) -> Any:
    return objects[value.number] if isinstance(value, _Reference) else _owned(value)
