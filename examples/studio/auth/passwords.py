"""Passwords: hashed with argon2id, checked in the same time whether the user exists or not."""

from __future__ import annotations

import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

__all__ = ["SHORTEST", "Passwords"]

SHORTEST = 12  # characters


class Passwords:
    """Makes and checks hashes; costly to build, so it is a component."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    def hash(self, password: str) -> str:
        """Return the hash to store."""
        return self._hasher.hash(password)

    def check(self, password: str, known: str | None) -> bool:
        """Whether the password fits; `None` for an unknown user takes as long as a real one."""
        try:
            self._hasher.verify(known or self._nobody, password)
        except (VerificationError, InvalidHashError):
            return False
        return known is not None

    def is_outdated(self, known: str) -> bool:
        """Whether the hash was made with weaker parameters than today's."""
        return self._hasher.check_needs_rehash(known)
