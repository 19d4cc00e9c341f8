"""``onlysum participant ledger``: what is spent.

Guarantees: these commands read; the daemon alone writes the ledger.
Leaves to others: what is shown (``participant.views.ledger``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from host.console import AsJson, show, show_view
from participant.commands.console import Directory, complete_populations, opened

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show, verify and export what is spent.")


@app.command("show")
def show_ledger(
    population: Annotated[
        str | None, typer.Argument(help="One population; by default all.", autocompletion=complete_populations)
    ] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show what each population has spent, run by run, and what is left.

    Example: onlysum participant ledger show patients
    """
    from participant.views.ledger import ledger_view

    show_view(ledger_view(opened(config), population), as_json=as_json)


@app.command("verify")
def verify_ledger(config: Directory = None, as_json: AsJson = False) -> None:
    """Check the whole ledger: its chain and every signature.

    Example: onlysum participant ledger verify
    """
    count = opened(config).ledger.verify()
    show({"records": count, "ok": True}, [f"{count} records, chained and signed by this identity."], as_json=as_json)


@app.command("export")
def export_ledger(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Write the whole ledger as JSON, for an archive or an auditor.

    Example: onlysum participant ledger export ledger.json
    """
    from host import durable

    ledger = opened(config).ledger
    durable.write_new(file, ledger.export())
    show({"file": str(file), "records": len(ledger.rows())}, [f"wrote {file}"], as_json=as_json)
