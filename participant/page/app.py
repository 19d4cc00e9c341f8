"""The owner's page as an application: plans that wait, what they need and cost, approve, pin, refuse, spend, what ran.

Guarantees: only who has the address with its key, which this user's terminal shows, sees anything, and only on this
machine; what is decided here goes through the same functions, rules and record as the commands; the hash that was shown
is the one that is approved.
Leaves to others: origins and errors (``host.web.guard``), the listener (``host.web.serving``), the rules.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from audit import html
from audit.verify import verify_report
from host.system import SystemClock
from host.web.guard import Guard, Origins, form
from host.web.pages import Pages
from participant.opened import OpenHome, open_home
from participant.owner.plan_page import plan_page
from participant.page.proposal import append, proposal_for
from participant.page.roster import pin_roster, roster_card
from participant.runs.erasure import sweep_without_daemon
from participant.runs.reporting import REPORT_FILE
from participant.views.history import history
from participant.views.ledger import ledger_view
from participant.views.status import participant_status
from privacy.errors import LocalError, RefusedError

COOKIE: Final = "onlysum-page"
LABEL_FORM: Final = b"onlysum/1/owner-page-form:"
_STYLE: Final = re.compile(r"<style>(.*?)</style>", re.DOTALL)

Fields = Mapping[str, str]
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class OwnerPage:
    """A participant's directory, opened anew for each page: the daemon and commands write to it meanwhile."""

    directory: Path
    pages: Pages
    key: str = field(repr=False)

    @property
    def form_token(self) -> str:
        """What forms of this page carry."""
        return hashlib.sha256(LABEL_FORM + self.key.encode()).hexdigest()

    def show(self, template: str, opened: OpenHome, **values: Any) -> Response:
        """Return a page."""
        now = SystemClock().now()
        return self.pages.render(template, form_token=self.form_token, me=opened.owner.name, now=now, **values)


def make_app(directory: Path, *, address: str, key: str) -> Starlette:
    """Return the application.

    Args:
        directory: the participant's.
        address: host and port that it is served at.
        key: whoever knows it may decide; fresh for each process.
    """
    opened = open_home(directory)
    pages = Pages("participant.page", federation=opened.owner.federation, site=opened.owner.name)
    page, guard = OwnerPage(directory, pages, key), Guard(pages, Origins(address))
    return Starlette(
        routes=[
            Route("/", _page(page, first_screen)),
            Route("/plans/{run}", _page(page, plan)),
            Route("/reports/{run}", _page(page, report)),
            Route("/plans/{run}/approve", _button(page, approve), methods=["POST"]),
            Route("/plans/{run}/refuse", _button(page, refuse), methods=["POST"]),
            Route("/plans/{run}/allow", _button(page, allow), methods=["POST"]),
            Route("/plans/{run}/pin", _button(page, pin), methods=["POST"]),
            Route("/static/{name}", pages.static),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        exception_handlers={HTTPException: guard.http_error},
    )


def _page(page: OwnerPage, make: Callable[[OwnerPage, OpenHome, Fields], Response]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        given = request.query_params.get("key", "")
        if given and hmac.compare_digest(given.encode(), page.key.encode()):
            response = RedirectResponse(request.url.path, 303)
            response.set_cookie(COOKIE, page.key, httponly=True, samesite="strict")
            return response
        _require_key(page, request)
        return await run_in_threadpool(_made, page, make, request.path_params)

    return endpoint


def _button(page: OwnerPage, act: Callable[[OwnerPage, OpenHome, Fields], Response]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        fields = await form(request)
        _require_key(page, request)
        if not hmac.compare_digest(fields.get("form_token", "").encode(), page.form_token.encode()):
            raise RefusedError("E-WEB-ORIGIN", "the form is not of this page")
        return await run_in_threadpool(_made, page, act, {**fields, **request.path_params})

    return endpoint


def _made(page: OwnerPage, make: Callable[[OwnerPage, OpenHome, Fields], Response], fields: Fields) -> Response:
    return make(page, open_home(page.directory), fields)


def _require_key(page: OwnerPage, request: Request) -> None:
    if not hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), page.key.encode()):
        raise RefusedError("E-WEB-ORIGIN", "open the whole address that `onlysum participant page` has printed")


# --- reading ---


def first_screen(page: OwnerPage, opened: OpenHome, fields: Fields) -> Response:
    """Return plans that wait, spend by population, and what ran."""
    return page.show(
        "owner.html.j2",
        opened,
        status=participant_status(opened),
        ledger=ledger_view(opened),
        runs=history(opened),
        known=opened.review.plans.run_ids(),
    )


def plan(page: OwnerPage, opened: OpenHome, fields: Fields) -> Response:
    """Return a plan as one screen, with what the policy says and would have to say."""
    review = opened.review
    run_id = review.plans.find(fields["run"])
    judged, decision = review.judge_run(run_id), review.plans.decision(run_id)
    proposal = None
    if decision is None and judged.dataset is not None and judged.assessment.broken:
        proposal = proposal_for(review, opened.home, run_id)
    return page.show(
        "plan.html.j2",
        opened,
        run_id=run_id,
        judged=judged,
        decision=decision,
        sheet=plan_page(judged, opened.owner.name, decision, review.plans.ended(run_id)),
        proposal=proposal,
        approvers=judged.policy.approval.approvers,
        roster=roster_card(opened.owner, judged.verified.plan, judged.policy.coordinator.roster),
    )


def report(page: OwnerPage, opened: OpenHome, fields: Fields) -> Response:
    """Return this participant's report of a run, verified before it is shown."""
    run_id = opened.review.plans.find(fields["run"])
    try:
        data = (opened.home.runs / run_id / REPORT_FILE).read_bytes()
    except FileNotFoundError:
        raise LocalError("E-NOT-FOUND", f"run {run_id} has no report here: there is one once it has ended") from None
    sheet = html.render(verify_report(data))
    style = _STYLE.search(sheet)
    digest = base64.b64encode(hashlib.sha256(style[1].encode() if style else b"").digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; frame-ancestors 'none'"
    return Response(sheet, media_type="text/html", headers={"Content-Security-Policy": policy})


# --- deciding ---


def approve(page: OwnerPage, opened: OpenHome, fields: Fields) -> Response:
    """Approve the plan whose hash was shown.

    Raises:
        RefusedError: a rule of the policy refuses it, or the person is none of the approvers.
        LocalError: ``E-USAGE``: nobody is named, or another plan was shown.
    """
    review = opened.review
    run_id = review.plans.find(fields["run"])
    if fields.get("hash", "") != review.plans.get(run_id).hash.hex():
        raise LocalError("E-USAGE", "the plan is not the one that was shown; open its page anew")
    review.approve(run_id, who=_person(fields))
    return RedirectResponse(f"/plans/{run_id}", 303)


def refuse(page: OwnerPage, opened: OpenHome, fields: Fields) -> Response:
    """Refuse a plan, or take an approval back.

    Raises:
        LocalError: ``E-USAGE``: nobody is named, or the reason is missing or too long.
    """
    review, because = opened.review, fields.get("because", "").strip()
    run_id = review.plans.find(fields["run"])
    if not 1 <= len(because) <= 500:
        raise LocalError("E-USAGE", "the operator is told why: in up to 500 characters")
    review.refuse(run_id, because=because, who=_person(fields))
    sweep_without_daemon(opened.home, review.plans, now=SystemClock().now())
    return RedirectResponse(f"/plans/{run_id}", 303)


def allow(page: OwnerPage, opened: OpenHome, fields: Fields) -> Response:
    """Append the lines that were shown to policy.toml.

    Raises:
        LocalError: ``E-USAGE``: they are not the lines that the plan needs now.
    """
    run_id = opened.review.plans.find(fields["run"])
    proposal = proposal_for(opened.review, opened.home, run_id)
    if fields.get("lines", "").replace("\r\n", "\n").strip() != proposal.text.strip():
        raise LocalError("E-USAGE", "the lines are not those that the plan needs now; open its page anew")
    append(opened.home, proposal)
    return RedirectResponse(f"/plans/{run_id}", 303)


def pin(page: OwnerPage, opened: OpenHome, fields: Fields) -> Response:
    """Pin the roster whose fingerprint was shown and compared.

    Raises:
        LocalError: ``E-USAGE``: it was not compared, or another one was shown.
        VerificationError: ``E-IDENTITY-DIFFERS``.
    """
    run_id = opened.review.plans.find(fields["run"])
    plan = opened.review.plans.get(run_id).plan
    shown, said = fields.get("fingerprint", ""), fields.get("same", "")
    pin_roster(opened.home, opened.owner, plan, shown=shown, said=said)
    return RedirectResponse(f"/plans/{run_id}", 303)


def _person(fields: Fields) -> str:
    who = fields.get("who", "").strip()
    if not 1 <= len(who) <= 100:
        raise LocalError("E-USAGE", "the decision is kept with the name of who took it: name yourself")
    return who
