"""What operators can press: the orders of the commands, with a row of the security log that says whose it was.

Guarantees: each button does what the command of the same name does, through the same functions.
Leaves to others: who may press (``app``), the orders (``coordinator.orders``).
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from coordinator import orders
from coordinator.dashboard.accounts import Login
from coordinator.dashboard.context import Dashboard
from coordinator.database import member_rows
from coordinator.enrolment.invitations import make_invitation
from coordinator.views.overview import overview
from privacy.errors import LocalError
from protos.envelope import Role

Fields = Mapping[str, str]
DAY: Final = 86_400
MOST_DAYS: Final = 90


def pause(dashboard: Dashboard, login: Login, fields: Fields) -> Response:
    """Open no further round."""
    return _ordered(dashboard, login, "pause", orders.set_paused(dashboard.opened.store, fields["run"], paused=True))


def resume(dashboard: Dashboard, login: Login, fields: Fields) -> Response:
    """Go on."""
    return _ordered(dashboard, login, "resume", orders.set_paused(dashboard.opened.store, fields["run"], paused=False))


def abort(dashboard: Dashboard, login: Login, fields: Fields) -> Response:
    """End a run for good."""
    return _ordered(dashboard, login, "abort", orders.abort(dashboard.opened.store, fields["run"]))


def exclude(dashboard: Dashboard, login: Login, fields: Fields) -> Response:
    """Leave a participant out of the rest of a run."""
    return _set_excluded(dashboard, login, fields, excluded=True)


def include(dashboard: Dashboard, login: Login, fields: Fields) -> Response:
    """Take a participant back."""
    return _set_excluded(dashboard, login, fields, excluded=False)


def _set_excluded(dashboard: Dashboard, login: Login, fields: Fields, *, excluded: bool) -> Response:
    member = fields.get("member", "")
    left = orders.set_excluded(dashboard.opened.store, fields["run"], member, excluded=excluded, now=dashboard.now())
    return _ordered(dashboard, login, f"{'exclude' if excluded else 'include'} {member} in", left.run_id)


def _ordered(dashboard: Dashboard, login: Login, what: str, run_id: str) -> Response:
    _note(dashboard, login, f"{what} {run_id}")
    return RedirectResponse(f"/runs/{run_id}", 303)


def _note(dashboard: Dashboard, login: Login, what: str) -> None:
    with dashboard.opened.store.begin() as connection:
        member_rows.log_security(connection, dashboard.now(), "ordered", login.user.name, what)


def export(dashboard: Dashboard, login: Login, fields: Fields) -> Response:
    """Return a run's adapter, report and plan as a zip; of a run that ended early, what it released."""
    ended = overview(dashboard.opened, fields["run"])
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        orders.export_run(dashboard.opened.files(ended.run.run_id), ended, directory, released=True)
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(directory.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(directory))
    _note(dashboard, login, f"export {ended.run.run_id}")
    name = f"run-{ended.run.run_id[:8]}.zip"
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(packed.getvalue(), media_type="application/zip", headers=disposition)


def revoke(dashboard: Dashboard, login: Login, fields: Fields) -> Response:
    """Revoke a member's key."""
    member = fields["member"]
    with dashboard.opened.store.begin() as connection:
        member_rows.revoke_member(connection, member, dashboard.now())
    _note(dashboard, login, f"revoke {member}")
    return RedirectResponse(f"/members/{quote(member, safe='')}", 303)


def invite(dashboard: Dashboard, login: Login, fields: Fields) -> Response:
    """Make an invitation and show its line, once.

    Raises:
        LocalError: ``E-USAGE`` or ``E-EXISTS``.
    """
    name, days, now = fields.get("name", ""), fields.get("days", ""), dashboard.now()
    if not (days.isascii() and days.isdigit() and len(days) < 4 and 1 <= int(days) <= MOST_DAYS):
        raise LocalError("E-USAGE", f"an invitation is valid for 1 to {MOST_DAYS} days")
    if fields.get("role") not in {role.value for role in Role}:
        raise LocalError("E-USAGE", "a newcomer is a participant or an evaluator")
    until = now + int(days) * DAY
    line = make_invitation(dashboard.opened, name=name, role=Role(fields["role"]), labels=[], now=now, until=until)
    _note(dashboard, login, f"invite {name}")
    return dashboard.show("invited.html.j2", login, place="members", name=name, line=line, until=until)
