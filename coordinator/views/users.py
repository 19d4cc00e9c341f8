"""Who may log in to the dashboard."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.database import user_rows
from coordinator.opened import OpenHome
from host.rendering import Json, Line, moment, table, timestamp


@dataclass(frozen=True, slots=True)
class UserView:
    """A user, without anything of its password."""

    name: str
    role: str
    added_at: int


@dataclass(frozen=True, slots=True)
class UserList:
    """All users."""

    users: tuple[UserView, ...]

    def to_json(self) -> Json:
        """Return it for programs."""
        return [{"name": user.name, "role": user.role, "added_at": timestamp(user.added_at)} for user in self.users]

    def to_lines(self) -> list[Line]:
        """Return it for people."""
        if not self.users:
            return ["No users yet: nobody can log in. Next: onlysum coordinator user add NAME"]
        return table(("NAME", "ROLE", "ADDED (UTC)"), [(u.name, u.role, moment(u.added_at)) for u in self.users])


def user_list(opened: OpenHome) -> UserList:
    """Read all users."""
    with opened.store.read() as connection:
        users = user_rows.list_users(connection)
    return UserList(tuple(UserView(user.name, user.role.value, user.added_at) for user in users))
