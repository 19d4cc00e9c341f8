"""The pages that operators and auditors read.

Guarantees: nothing is changed; values are those of ``coordinator.views``.
Leaves to others: words and layout (templates), who may read (``app``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from audit import html
from audit.verify import verify_report
from coordinator.dashboard.accounts import Login
from coordinator.dashboard.context import Dashboard
from coordinator.dashboard.curve import EpsilonCurve
from coordinator.database import label_rows, run_rows
from coordinator.labels import label_words, match, read_wanted
from coordinator.views.inbox import inbox
from coordinator.views.members import member_details, member_list, newest_run
from coordinator.views.overview import Overview, overview
from coordinator.views.runs import run_list
from coordinator.views.security import exported, security_log
from coordinator.views.sentence import Health, RunSentence, run_sentence
from coordinator.views.status import service_status
from host.fingerprints import fingerprint
from privacy.errors import LocalError

Asked = Mapping[str, str]
SHOWN_ROWS: Final = 200  # of the security log, on a page
SHOWN_ENDED: Final = 20
_STYLE: Final = re.compile(r"<style>(.*?)</style>", re.DOTALL)


def first_screen(dashboard: Dashboard, login: Login, asked: Asked) -> Response:
    """Return one sentence for each run that goes on, and what ended lately; of all runs, or of those with a label."""
    opened, now, wanted = dashboard.opened, dashboard.now(), read_wanted(filter(None, [asked.get("label", "")]))
    with opened.store.read() as connection:
        labels = label_rows.list_labels(connection)
        known = [run for run in run_rows.list_runs(connection) if match(wanted, labels.get(run.run_id, {}))]
    going_on = [overview(opened, run.run_id) for run in known if not run.state.ended]
    ended = [overview(opened, run.run_id) for run in known if run.state.ended][: -SHOWN_ENDED - 1 : -1]
    return dashboard.show(
        "runs.html.j2",
        login,
        place="runs",
        runs=sorted(((each, run_sentence(each, now)) for each in reversed(going_on)), key=_worst_first),
        ended=[(each, run_sentence(each, now)) for each in ended],
        service=service_status(opened, now),
        label=str(wanted[0]) if wanted else "",
        labels=sorted({words for each in labels.values() for words in (*each, *label_words(each))}),
    )


def _worst_first(shown: tuple[Overview, RunSentence]) -> int:
    return list(Health).index(shown[1].health)


def members(dashboard: Dashboard, login: Login, asked: Asked) -> Response:
    """Return the grid of members."""
    opened = dashboard.opened
    with opened.store.read() as connection:
        known = run_rows.list_runs(connection)
    newest = newest_run(known)
    run = overview(opened, newest.run_id) if newest else None
    return dashboard.show("members.html.j2", login, place="members", members=member_list(opened).members, run=run)


def member(dashboard: Dashboard, login: Login, asked: Asked) -> Response:
    """Return one member."""
    details = member_details(dashboard.opened, asked["member"])
    keys = [fingerprint(seen.identity_key) for seen in details.ledgers]
    return dashboard.show("member.html.j2", login, place="members", details=details, keys=keys)


def run(dashboard: Dashboard, login: Login, asked: Asked) -> Response:
    """Return one run: phase, plots with their tables, what happened, buttons."""
    current = overview(dashboard.opened, asked["run"])
    return dashboard.show(
        "run.html.j2",
        login,
        place="runs",
        current=current,
        sentence=run_sentence(current, dashboard.now()),
        curve=EpsilonCurve.of(current.plan),
        reported=dashboard.opened.files(current.run.run_id).reported,
    )


def waiting(dashboard: Dashboard, login: Login, asked: Asked) -> Response:
    """Return what waits for an operator."""
    return dashboard.show("inbox.html.j2", login, place="inbox", inbox=inbox(dashboard.opened, dashboard.now()))


def reports(dashboard: Dashboard, login: Login, asked: Asked) -> Response:
    """Return the runs that have a report."""
    runs = reversed(run_list(dashboard.opened).runs)
    found = [(each, dashboard.opened.files(each.run_id).reported) for each in runs]
    return dashboard.show("reports.html.j2", login, place="reports", runs=found)


def report_page(dashboard: Dashboard, login: Login, asked: Asked) -> Response:
    """Return a run's report as a page, verified before it is shown."""
    page = html.render(verify_report(_require_report(dashboard, asked["run"])))
    style = _STYLE.search(page)
    digest = base64.b64encode(hashlib.sha256(style[1].encode() if style else b"").digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; frame-ancestors 'none'"
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})


def report_file(dashboard: Dashboard, login: Login, asked: Asked) -> Response:
    """Return a run's report as its signed file."""
    return _download(_require_report(dashboard, asked["run"]), f"report-{asked['run'][:8]}.json", "application/json")


def security(dashboard: Dashboard, login: Login, asked: Asked) -> Response:
    """Return the security log, filtered."""
    kind, subject = asked.get("kind", ""), asked.get("subject", "")
    log = security_log(dashboard.opened, 0)
    kinds = sorted({row.kind for row in log.rows})
    rows = log.filtered(kind=kind, subject=subject).rows
    shown = rows[: -SHOWN_ROWS - 1 : -1]
    return dashboard.show(
        "security.html.j2", login, place="security", log=log, rows=shown, found=len(rows), kinds=kinds, kind=kind,
        subject=subject,
    )  # fmt: skip


def security_file(dashboard: Dashboard, login: Login, asked: Asked) -> Response:
    """Return the whole security log with its hashes."""
    data = json.dumps(exported(dashboard.opened), indent=1).encode()
    return _download(data, "security-log.json", "application/json")


def _report(dashboard: Dashboard, run_id: str) -> bytes | None:
    try:
        return dashboard.opened.files(run_id).report.read_bytes()
    except FileNotFoundError:
        return None


def _require_report(dashboard: Dashboard, name: str) -> bytes:
    with dashboard.opened.store.read() as connection:
        run_id = run_rows.find_run(connection, name).run_id
    data = _report(dashboard, run_id)
    if data is None:
        raise LocalError("E-NOT-FOUND", f"run {run_id} has no report: there is one once it has ended")
    return data


def _download(data: bytes, name: str, kind: str) -> Response:
    safe = re.sub(r"[^a-z0-9.-]", "", name)
    return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{safe}"'})
