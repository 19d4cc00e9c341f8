"""What every page of the dashboard starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from coordinator.dashboard.accounts import Login
from coordinator.database.user_rows import UserRole
from coordinator.opened import OpenHome
from coordinator.views.inbox import inbox
from host.web.pages import Pages
from privacy.interfaces import Clock


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The coordinator, its pages and its clock."""

    opened: OpenHome
    pages: Pages
    clock: Clock

    def now(self) -> int:
        """Return seconds since the Unix epoch."""
        return int(self.clock.now())

    def show(self, template: str, login: Login, *, place: str, **values: Any) -> Response:
        """Return a page for a user; ``place`` is the entry of the menu that it belongs to."""
        now = self.now()
        return self.pages.render(
            template,
            login=login,
            operates=login.user.role is UserRole.OPERATOR,
            place=place,
            now=now,
            waiting=len(inbox(self.opened, now).items),
            **values,
        )
