"""Users of the dashboard, and their logins, in the database.

Guarantees: a login is kept as a hash of what the browser holds, so that whoever reads the database cannot use it;
removing a user ends its logins in the same transaction; every change is a row of the security log.
Leaves to others: passwords and lockout (``coordinator.dashboard.accounts``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.database.member_rows import log_security
from coordinator.database.tables import logins, users
from privacy.errors import LocalError


class UserRole(StrEnum):
    """What a user of the dashboard may do."""

    OPERATOR = "operator"
    AUDITOR = "auditor"  # reads, and changes nothing


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user; the password is argon2's string with salt and parameters."""

    name: str
    role: UserRole
    password: str = field(repr=False)
    added_at: int


def add_user(connection: Connection, user: UserRecord) -> None:
    """Add a user.

    Raises:
        LocalError: ``E-EXISTS``.
    """
    if find_user(connection, user.name) is not None:
        raise LocalError("E-EXISTS", f"there is a user {user.name}; remove it first")
    values = {"name": user.name, "role": user.role.value, "password": user.password, "added_at": user.added_at}
    connection.execute(sa.insert(users).values(**values))
    log_security(connection, user.added_at, "user-added", user.name, user.role.value)


def find_user(connection: Connection, name: str) -> UserRecord | None:
    """Return a user by name."""
    row = connection.execute(sa.select(users).where(users.c.name == name)).one_or_none()
    return None if row is None else UserRecord(row.name, UserRole(row.role), row.password, row.added_at)


def list_users(connection: Connection) -> tuple[UserRecord, ...]:
    """Return all users by name."""
    rows = connection.execute(sa.select(users))
    found = (UserRecord(row.name, UserRole(row.role), row.password, row.added_at) for row in rows)
    return tuple(sorted(found, key=lambda user: user.name))


def remove_user(connection: Connection, name: str, now: int) -> None:
    """Remove a user and end its logins.

    Raises:
        LocalError: ``E-NOT-FOUND``.
    """
    if find_user(connection, name) is None:
        raise LocalError("E-NOT-FOUND", f"no user {name}")
    connection.execute(sa.delete(logins).where(logins.c.user == name))
    connection.execute(sa.delete(users).where(users.c.name == name))
    log_security(connection, now, "user-removed", name, "")


def add_login(connection: Connection, token_hash: bytes, user: str, *, now: int, until: int) -> None:
    """Begin a login; those that have expired are forgotten."""
    connection.execute(sa.delete(logins).where(logins.c.expires_at <= now))
    connection.execute(sa.insert(logins).values(token_hash=token_hash, user=user, expires_at=until))
    log_security(connection, now, "login", user, "")


def find_login(connection: Connection, token_hash: bytes, now: int) -> UserRecord | None:
    """Return whose login this is, if it goes on."""
    here = (logins.c.token_hash == token_hash, logins.c.expires_at > now)
    name = connection.execute(sa.select(logins.c.user).where(*here)).scalar()
    return None if name is None else find_user(connection, name)


def end_login(connection: Connection, token_hash: bytes) -> None:
    """End a login."""
    connection.execute(sa.delete(logins).where(logins.c.token_hash == token_hash))
