"""What every request to a page passes first: whom it names, where it comes from, how much it sends, how errors look.

Guarantees: a request for another host's name is refused, so that no page of somewhere else can reach this one under a
name of its own; whatever changes something must come from a page of this very origin; a form is small and arrives soon;
an error leaves as its code, reason and next step, and anything unforeseen as ``E-BUG`` without its text.
Leaves to others: who is logged in (each daemon). Source: OWASP CSRF Prevention; Fetch Standard, the ``Origin`` header.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from host.logs import get_logger
from host.web.pages import HEADERS, Pages
from privacy.error_codes import Fault
from privacy.errors import LocalError, OnlysumError, RefusedError

MOST_BYTES: Final = 16 * 2**10  # of a form
MOST_FIELDS: Final = 32
FORM_SECONDS: Final = 10.0
FORM_TYPE: Final = "application/x-www-form-urlencoded"
SAFE: Final = frozenset({"GET", "HEAD"})
STATUSES: Final = {
    "E-NOT-FOUND": 404, "E-WEB-ORIGIN": 403, "E-WEB-FORM": 400, "E-LOGIN-ROLE": 403, "E-LOGIN-LOCKED": 429,
    "E-LOGIN": 401, "E-STATE-BUSY": 503, "E-DATABASE-AWAY": 503, "E-BUG": 500, "E-IDENTITY-DIFFERS": 409,
}  # fmt: skip
BY_FAULT: Final = {Fault.USAGE: 400, Fault.REFUSED: 409}

_log = get_logger("onlysum.web")


class Origins:
    """The names under which a listener is reached, and so the origins of its own pages."""

    def __init__(self, address: str, public: str = "") -> None:
        """Take what the configuration says.

        Args:
            address: host and port that the listener was bound to.
            public: ``https://...``, under which a proxy offers it; empty without one.
        """
        host, _, port = address.rpartition(":")
        names = {address, *(f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]"))}
        names = {address} if host not in ("localhost", "127.0.0.1", "[::1]") else names
        self.hosts = frozenset(names | ({public.partition("://")[2]} if public else set()))
        self.origins = frozenset({f"http://{name}" for name in names} | ({public} if public else set()))


class Guard:
    """The outermost layer of an application's pages."""

    def __init__(self, pages: Pages, origins: Origins, *, open_paths: Collection[str] = ()) -> None:
        """Make the layer.

        Args:
            pages: to show errors with.
            origins: of this listener.
            open_paths: that machines ask for under any name: metrics and health.
        """
        self._pages = pages
        self._origins = origins
        self._open = frozenset(open_paths)

    async def __call__(self, request: Request, go_on: RequestResponseEndpoint) -> Response:
        """Check a request, pass it on, and add the headers to whatever comes back."""
        try:
            self._check(request)
            response = await go_on(request)
        except OnlysumError as error:
            response = self.refusal(error)
        except Exception as error:  # noqa: BLE001  # logged; whoever asked learns only that something failed
            # Its words may be data: the traceback is written only where the daemon's log may have one.
            _log.error("page failed", method=request.method, kind=type(error).__name__, exc_info=True)
            response = self.refusal(LocalError("E-BUG", "the page could not be made; the log has where"))
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _check(self, request: Request) -> None:
        if "\0" in request.scope["path"]:  # PostgreSQL knows no such text, and no name here has it
            raise LocalError("E-NOT-FOUND", "there is no such page")
        if "%00" in request.url.query:
            raise RefusedError("E-WEB-FORM", "a question here has no NUL in it")
        if request.scope["path"] in self._open and request.method in SAFE:
            return
        if request.headers.get("host", "") not in self._origins.hosts:
            raise RefusedError("E-WEB-ORIGIN", "this listener is asked for under a name that is not its own")
        if request.method not in SAFE and request.headers.get("origin", "") not in self._origins.origins:
            raise RefusedError("E-WEB-ORIGIN", "the request does not come from a page of this listener")

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Return the page of what no route takes."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        return self.refusal(LocalError("E-NOT-FOUND", "no such page"), status=status)

    def refusal(self, error: OnlysumError, *, status: int = 0) -> Response:
        """Return the page of an error."""
        code = status or STATUSES.get(error.code) or BY_FAULT.get(error.explanation.fault, 500)
        return self._pages.render("error.html.j2", http_status=code, error=error, explanation=error.explanation)


async def form(request: Request) -> Mapping[str, str]:
    """Return the fields of a small form, each once.

    Raises:
        RefusedError: ``E-WEB-FORM``.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != FORM_TYPE:
        raise RefusedError("E-WEB-FORM", f"a form is {FORM_TYPE}")
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MOST_BYTES:
                    raise RefusedError("E-WEB-FORM", f"a form has at most {MOST_BYTES} bytes")
    except TimeoutError:
        raise RefusedError("E-WEB-FORM", f"a form arrives within {FORM_SECONDS:g} seconds") from None
    except ClientDisconnect:  # who went away reads no answer; it is no failure of this program
        raise RefusedError("E-WEB-FORM", "the form ended before it was whole") from None
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise RefusedError("E-WEB-FORM", f"a form is UTF-8 with at most {MOST_FIELDS} fields") from None
    fields = dict(pairs)
    if any("\0" in part for pair in pairs for part in pair):
        raise RefusedError("E-WEB-FORM", "a field holds a character that nothing here has (NUL)")
    if len(fields) != len(pairs):
        raise RefusedError("E-WEB-FORM", "a field stands in a form once")
    return fields
