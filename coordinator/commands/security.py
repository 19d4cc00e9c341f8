"""``onlysum coordinator security``: what happened that bears on who may do what.

Guarantees: the chain of the log is checked before any of it is shown. Leaves to others: what is shown
(``coordinator.views.security``), what is noted (``coordinator.database.member_rows``, ``coordinator.daemon.refusals``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.commands.console import Directory, opened
from host.console import AsJson, show, show_view
from host.rendering import Json

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Show the security log.")


@app.callback()
def _noun() -> None:
    """Show the security log."""


@app.command("show")
def show_security_log(
    last: Annotated[int, typer.Option("--last", min=0, help="How many of the newest rows; 0: all.")] = 50,
    kind: Annotated[str, typer.Option("--kind", help="Only rows of this kind, such as enrolled.")] = "",
    subject: Annotated[str, typer.Option("--subject", help="Only rows with this text in who or detail.")] = "",
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
        log = security_log(coordinator, 0).filtered(kind=kind, subject=subject)
        show_view(log.newest(last), as_json=as_json)


@app.command("export")
def export_security_log(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="A new file, JSON.")],
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Write the whole log with its hashes, to keep elsewhere.

    Example: onlysum coordinator security export -o security.json
    """
    import json

    from coordinator.views.security import exported
    from host import durable

    with opened(config) as coordinator:
        document = exported(coordinator)
    durable.write_new(out, json.dumps(document, indent=1).encode(), mode=durable.FILE_MODE)
    show({"file": str(out)}, [f"Wrote {out}. Check it: onlysum coordinator security check {out}"], as_json=as_json)


@app.command("check")
def check_security_log(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="That `security export` wrote.")], as_json: AsJson = False
) -> None:
    """Check the chain of an exported log; no coordinator is needed.

    Whoever keeps the head of an earlier export sees in `head` whether rows
    were taken off the end since.

    Example: onlysum coordinator security check security.json
    """
    from coordinator.views.security import check_exported
    from privacy.errors import LocalError

    try:
        data = file.read_bytes()
    except OSError as error:
        raise LocalError("E-NOT-FOUND", f"{file}: {error.strerror}") from None
    rows = check_exported(data)
    head = rows[-1].hash.hex() if rows else ""
    value: Json = {"ok": True, "rows": len(rows), "head": head}
    show(value, [f"{len(rows)} rows, chained from the first to the last; head {head or 'none'}"], as_json=as_json)
