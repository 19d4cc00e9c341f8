"""The admin listener beside the service: it begins and ends with the daemon.

Guarantees: without its section in coordinator.toml there is none, and nothing of it is imported.
Leaves to others: what it serves (``coordinator.dashboard``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from coordinator.daemon.refusals import RefusalLog
from coordinator.opened import OpenHome
from host.system import SystemClock, SystemRandom


@asynccontextmanager
async def serving(opened: OpenHome, refusals: RefusalLog) -> AsyncIterator[str]:
    """Serve while the block runs; yields the address, empty if none is configured.

    Raises:
        LocalError: ``E-PORT``; ``ModuleNotFoundError``: the extra ``dashboard`` is not installed.
    """
    if opened.settings.admin is None:
        yield ""
        return
    from coordinator.dashboard.app import make_app
    from host.web import serving as web

    listener = web.bind(opened.settings.admin.listen)
    address = web.bound_address(listener, opened.settings.admin.listen)
    app = make_app(opened, refusals, address=address, clock=SystemClock(), random=SystemRandom())
    async with web.served(app, listener):
        yield address
