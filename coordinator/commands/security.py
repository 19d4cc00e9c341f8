"""``onlysum coordinator security``: what happened that bears on who may do what.

Guarantees: the chain of the log is checked before any of it is shown. Leaves to others: what is shown
(``coordinator.views.security``), what is noted (``coordinator.database.member_rows``, ``coordinator.daemon.refusals``).
"""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.commands.console import Directory, opened
from host.console import AsJson, show_view

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Show the security log.")


@app.callback()
def _noun() -> None:
    """Show the security log."""


@app.command("show")
def show_security_log(
    last: Annotated[int, typer.Option("--last", min=0, help="How many of the newest rows; 0: all.")] = 50,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show joins, refusals, revocations, rollbacks and runs.

    The log is a hash chain, checked first: rows that were changed or removed
    within it are found.

    Example: onlysum coordinator security show --last 20
    """
    from coordinator.views.security import security_log

    with opened(config) as coordinator:
        show_view(security_log(coordinator, last), as_json=as_json)
