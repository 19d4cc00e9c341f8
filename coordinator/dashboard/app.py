"""The dashboard as an application: its pages, the buttons of operators, metrics and health.

Guarantees: every page but the login needs a login, every button an operator and the token of its own login's forms;
what a page shows is what the commands print, the same values of ``coordinator.views``; metrics and health need no login
and say nothing about one participant's loss, size or data.
Leaves to others: passwords (``accounts``), origins and errors (``host.web.guard``), the listener
(``host.web.serving``).
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from coordinator.daemon.refusals import RefusalLog
from coordinator.dashboard import buttons, reading
from coordinator.dashboard.accounts import LOGIN_SECONDS, Accounts, Login
from coordinator.dashboard.context import Dashboard
from coordinator.dashboard.figures import FILTERS
from coordinator.dashboard.metrics import CONTENT_TYPE, Metrics, readiness
from coordinator.database.user_rows import UserRole
from coordinator.opened import OpenHome
from host.web.guard import Guard, Origins, form
from host.web.pages import Pages
from privacy.errors import RefusedError
from privacy.interfaces import Clock, RandomSource

OPEN_PATHS: Final = ("/metrics", "/livez", "/readyz")
COOKIE: Final = "onlysum-login"
SECURE_COOKIE: Final = "__Host-onlysum-login"  # a browser takes it over TLS alone

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(opened: OpenHome, refusals: RefusalLog, *, address: str, clock: Clock, random: RandomSource) -> Starlette:
    """Return the application.

    Args:
        opened: the coordinator.
        refusals: where refused logins are noted.
        address: host and port that it is served at.
        clock: of this machine.
        random: tokens of logins are drawn from it.
    """
    origin = opened.settings.admin.origin if opened.settings.admin else ""
    pages = Pages("coordinator.dashboard", filters=FILTERS, federation=opened.settings.federation, site="onlysum")
    dashboard = Dashboard(opened, pages, clock)
    guard = Guard(pages, Origins(address, origin), open_paths=OPEN_PATHS)
    logins = Logins(dashboard, Accounts(opened.store, clock, random, refusals), secure=bool(origin))
    return Starlette(
        routes=[*_routes(logins), *_machine_routes(opened, clock), Route("/static/{name}", pages.static)],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        exception_handlers={HTTPException: guard.http_error},
    )


class Logins:
    """Puts a login before pages and buttons."""

    def __init__(self, dashboard: Dashboard, accounts: Accounts, *, secure: bool) -> None:
        self._dashboard = dashboard
        self._accounts = accounts
        self._secure = secure
        self._cookie = SECURE_COOKIE if secure else COOKIE

    def page(self, make: Callable[[Dashboard, Login, Mapping[str, str]], Response]) -> Endpoint:
        """Return an endpoint for whoever is logged in; anybody else is led to the login."""

        async def endpoint(request: Request) -> Response:
            login = await self._login(request)
            if login is None:
                return _lead_to_login(request)
            return await run_in_threadpool(make, self._dashboard, login, _asked(request))

        return endpoint

    def button(self, act: Callable[[Dashboard, Login, Mapping[str, str]], Response]) -> Endpoint:
        """Return an endpoint that changes something, for operators."""

        async def endpoint(request: Request) -> Response:
            fields = await form(request)
            login = await self._login(request)
            if login is None or not hmac.compare_digest(
                fields.get("form_token", "").encode(), login.form_token.encode()
            ):
                raise RefusedError("E-WEB-ORIGIN", "the form is not of a login that goes on")
            if login.user.role is not UserRole.OPERATOR:
                raise RefusedError("E-LOGIN-ROLE", f"{login.user.name} is an auditor")
            return await run_in_threadpool(act, self._dashboard, login, {**fields, **request.path_params})

        return endpoint

    async def show(self, request: Request) -> Response:
        """Return the page of the login."""
        return self._dashboard.pages.render("login.html.j2", error=None, name="")

    async def log_in(self, request: Request) -> Response:
        """Begin a login, or show the page again with what was wrong."""
        fields = await form(request)
        name, password = fields.get("name", ""), fields.get("password", "")
        try:
            login = await run_in_threadpool(self._accounts.log_in, name, password)
        except RefusedError as error:
            status = 429 if error.code == "E-LOGIN-LOCKED" else 401
            return self._dashboard.pages.render("login.html.j2", http_status=status, error=error, name=name)
        start = "/reports" if login.user.role is UserRole.AUDITOR else "/"
        response = RedirectResponse(start, 303)
        response.set_cookie(
            self._cookie, login.token, max_age=LOGIN_SECONDS, httponly=True, samesite="strict", secure=self._secure
        )
        return response

    async def log_out(self, request: Request) -> Response:
        """End a login."""
        fields, login = await form(request), await self._login(request)
        if login is not None and hmac.compare_digest(fields.get("form_token", "").encode(), login.form_token.encode()):
            await run_in_threadpool(self._accounts.log_out, login)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(self._cookie, httponly=True, samesite="strict", secure=self._secure)
        return response

    async def _login(self, request: Request) -> Login | None:
        return await run_in_threadpool(self._accounts.find, request.cookies.get(self._cookie, ""))


def _lead_to_login(request: Request) -> Response:
    if "hx-request" in request.headers:  # a part of a page that is open: the whole page has to go there
        return Response(headers={"HX-Redirect": "/login"})
    return RedirectResponse("/login", 303)


def _asked(request: Request) -> Mapping[str, str]:
    return {**{name: value[:100] for name, value in request.query_params.items()}, **request.path_params}


def _routes(logins: Logins) -> list[Route]:
    pages: dict[str, Any] = {
        "/": reading.first_screen,
        "/members": reading.members,
        "/members/{member}": reading.member,
        "/runs/{run}": reading.run,
        "/runs/{run}/report": reading.report_page,
        "/runs/{run}/report.json": reading.report_file,
        "/inbox": reading.waiting,
        "/reports": reading.reports,
        "/security": reading.security,
        "/security.json": reading.security_file,
    }
    orders: dict[str, Any] = {
        "/runs/{run}/pause": buttons.pause,
        "/runs/{run}/resume": buttons.resume,
        "/runs/{run}/abort": buttons.abort,
        "/runs/{run}/exclude": buttons.exclude,
        "/runs/{run}/include": buttons.include,
        "/runs/{run}/export": buttons.export,
        "/members/{member}/revoke": buttons.revoke,
        "/invitations": buttons.invite,
    }
    return [
        Route("/login", logins.show),
        Route("/login", logins.log_in, methods=["POST"]),
        Route("/logout", logins.log_out, methods=["POST"]),
        *(Route(path, logins.page(make)) for path, make in pages.items()),
        *(Route(path, logins.button(act), methods=["POST"]) for path, act in orders.items()),
    ]


def _machine_routes(opened: OpenHome, clock: Clock) -> list[Route]:
    metrics = Metrics(opened, clock)

    def numbers(request: Request) -> Response:
        return Response(metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def alive(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    def ready(request: Request) -> Response:
        reason = readiness(opened)
        return PlainTextResponse(f"{reason or 'ok'}\n", status_code=503 if reason else 200)

    return [Route("/metrics", numbers), Route("/livez", alive), Route("/readyz", ready)]
