"""Pages: templates, files that travel with them, and the headers that keep a browser from doing anything else.

Guarantees: every text is escaped; a page asks no other host for anything and runs no script but the shipped files,
which its content policy enforces; files that others wrote are those of ``vendored/vendored.toml``, by hash.
Leaves to others: what a page shows, who may see it, the listener (``serving``).
Source: Content Security Policy Level 3; OWASP Secure Headers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import jinja2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from host.rendering import clock_time, moment, timestamp

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
KEPT: Final = "public, max-age=31536000, immutable"  # a file's address has its hash


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages load."""

    data: bytes
    type: str

    @property
    def mark(self) -> str:
        """What changes in its address when it changes."""
        return hashlib.sha256(self.data).hexdigest()[:12]


def load_assets() -> dict[str, Asset]:
    """Return the files of ``static`` by name."""
    found = (path for path in files("host.web").joinpath("static").iterdir() if path.is_file())
    return {path.name: Asset(path.read_bytes(), TYPES[path.name.rpartition(".")[2]]) for path in found}


class Pages:
    """The templates of one package, and the shared ones."""

    def __init__(
        self, package: str, *, filters: Mapping[str, Callable[..., object]] | None = None, **shared: Any
    ) -> None:
        """Load templates and files.

        Args:
            package: whose folder ``templates`` has the pages.
            filters: of these templates.
            shared: values that every page gets.
        """
        self._assets = load_assets()
        self._environment = jinja2.Environment(
            loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("host.web")]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "moment": moment,
            "timestamp": timestamp,
            "clock": clock_time,
            "ticks": ticks,
            **(filters or {}),
        }
        self._environment.globals |= {"asset": self.address, **shared}

    def address(self, name: str) -> str:
        """Return where a file is fetched."""
        return f"/static/{name}?{self._assets[name].mark}"

    def render(self, template: str, *, http_status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page."""
        return HTMLResponse(self._environment.get_template(template).render(**values), status_code=http_status)

    async def static(self, request: Request) -> Response:
        """Return a shipped file."""
        asset = self._assets.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404)
        return Response(asset.data, media_type=asset.type, headers={"Cache-Control": KEPT})


def ticks(history: str, sign: str, *, width: int = 4, height: int = 10) -> str:
    """Return an SVG path with a bar at each place of a history where it has a sign."""
    places = (index * width for index, found in enumerate(history) if found == sign)
    return "".join(f"M{x} 0h{width - 1}v{height}h-{width - 1}z" for x in places)
