"""People: found, made, and logged out everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, insert, select, update

from studio.models import User
from studio.toolkit import Toolkit

__all__ = ["LONGEST_NAME", "Person", "Users", "open_users"]

LONGEST_NAME = 40  # characters


class Person(NamedTuple):
    """A user as the studio knows them; the hash is for the login alone."""

    id: int
    name: str
    role: str
    password_hash: str
    session_version: int

    @property
    def is_admin(self) -> bool:
        """Whether this person may change things."""
        return self.role == "admin"


class Users(NamedTuple):
    """What can be asked and changed. No answer is cached: a session that was ended must end at once."""

    by_id: Callable[[int], Person | None]
    by_name: Callable[[str], Person | None]
    create: Callable[[str, str, str], int]
    rehash: Callable[[int, str], None]
    end_sessions: Callable[[int], None]


def open_users(kit: Toolkit) -> Users:
    """Make the questions and changes, on this toolkit's database."""
    db = kit.db

    @kit.guard_database
    @db.with_database_session(read_only=True)
    def by_id(user_id: int) -> Person | None:
        return _person(db.session.execute(_PEOPLE.where(User.id == user_id)).one_or_none())

    @kit.guard_database
    @db.with_database_session(read_only=True)
    def by_name(name: str) -> Person | None:
        return _person(db.session.execute(_PEOPLE.where(User.name == name)).one_or_none())

    @kit.repeat_write
    @db.with_database_session
    def create(name: str, role: str, password_hash: str) -> int:
        new = insert(User).values(name=name, role=role, password_hash=password_hash)
        return db.session.execute(new.returning(User.id)).scalar_one()

    @kit.repeat_write
    @db.with_database_session
    def rehash(user_id: int, password_hash: str) -> None:
        db.session.execute(update(User).where(User.id == user_id).values(password_hash=password_hash))

    @kit.repeat_write
    @db.with_database_session
    def end_sessions(user_id: int) -> None:
        ended = update(User).where(User.id == user_id).values(session_version=User.session_version + 1)
        db.session.execute(ended)

    return Users(by_id, by_name, create, rehash, end_sessions)


_PEOPLE: Select[int, str, str, str, int] = select(
    User.id, User.name, User.role, User.password_hash, User.session_version
)


def _person(row: Sequence[Any] | None) -> Person | None:
    return None if row is None else Person(*row)
