"""``onlysum participant page``: the owner's page, served on this machine while the command runs.

Leaves to others: what it shows (``participant.page``), the daemon, which need not run.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import typer

from host.console import AsJson, show
from participant.commands.console import Directory, directory
from privacy.errors import LocalError


def page(
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="On this machine; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show plans, spend and reports in a browser on this machine.

    Approve and refuse there. Whoever has the printed address may; Ctrl-C
    ends it.

    Example: onlysum participant page
    """
    import secrets
    import sys

    from host.logs import configure
    from host.web import serving
    from participant.page.app import make_app

    configure(sys.stderr, "info", tracebacks=False)  # as the daemon's log: they could show data

    host, _, port = listen.rpartition(":")
    is_port = re.fullmatch("[0-9]{1,5}", port) is not None and int(port) < 2**16
    if host.strip("[]") not in ("127.0.0.1", "::1", "localhost") or not is_port:
        raise LocalError("E-USAGE", f"--listen {listen!r} is not 127.0.0.1:PORT: the page is for this machine alone")
    home, key = directory(config).resolve(), secrets.token_hex(32)
    listener = serving.bind(listen)
    address = serving.bound_address(listener, listen)
    app = make_app(home, address=address, key=key)
    url = f"http://{address}/?key={key}"
    show({"url": url}, [f"Open {url}", "Ctrl-C ends it."], as_json=as_json)

    async def serve() -> None:
        async with serving.served(app, listener):
            await asyncio.Event().wait()

    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        return
