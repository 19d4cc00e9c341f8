"""``onlysum participant ledger``: what is spent.

Guarantees: these commands read, but for ``reanchor``; else the daemon alone writes the ledger.
Leaves to others: what is shown (``participant.views.ledger``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from host.console import AsJson, show, show_view
from participant.commands.console import Directory, complete_populations, directory, opened
from privacy.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIRM: Final = "Nothing was written. To charge this and go on: onlysum participant ledger reanchor --as NAME"

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Show and export what is spent; go on after a loss."
)


@app.command("show")
def show_ledger(
    population: Annotated[
        str | None, typer.Argument(help="One population; by default all.", autocompletion=complete_populations)
    ] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show what was spent, run by run, and what is left.

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
    show({"records": count, "ok": True}, [f"{count} records, chained and signed by the ledger's key."], as_json=as_json)


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


@app.command()
def reanchor(
    who: Annotated[str | None, typer.Option("--as", help="Your name: charge what is shown, for good.")] = None,
    rounds: Annotated[
        list[str] | None, typer.Option("--rounds", metavar="RUN=N", help="Only N rounds of RUN were charged.")
    ] = None,
    only_policy_changed: Annotated[
        bool, typer.Option("--only-policy-changed", help="Records that no run explains are changes of the policy.")
    ] = False,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Go on after records of the ledger were lost.

    Shows what is missing and charges it at its worst; the runs that may have gone on stay closed.

    Example: onlysum participant ledger reanchor --as "Anna Meier"
    """
    from host.locks import only_daemon
    from host.system import SystemClock
    from participant.daemon.doctor import first_words
    from participant.daemon.reanchor import find_loss
    from participant.daemon.reanchor import reanchor as write
    from participant.link.channel import Channel
    from participant.owner.approval import approver
    from participant.owner.policy import load_policy

    with only_daemon(directory(config).resolve(), "participant"):
        participant = opened(config)
        policy = load_policy(participant.home)
        person = None if who is None else approver(who, policy.approval.approvers)
        with Channel(participant.identity, proxy=participant.settings.proxy) as channel:
            loss = find_loss(
                participant,
                policy,
                channel.handshake(first_words(participant)),
                channel.download_plan,
                named=_named(rounds or []),
                policy_only=only_policy_changed,
            )
        if person is not None:
            write(participant, loss, who=person, at=int(SystemClock().now()))
    done = f"Written to the ledger as {person}. Next: onlysum participant start"
    lines = [*loss.to_lines(), CONFIRM if person is None else done]
    show({"written": person is not None, "loss": loss.to_json()}, lines, as_json=as_json)


def _named(options: Sequence[str]) -> dict[str, int]:
    """Return the rounds that a person names, by run id or its beginning."""
    named = {}
    for option in options:
        run, _, number = option.rpartition("=")
        if not run or not number.isdecimal():
            raise LocalError("E-USAGE", f"--rounds {option!r}: write RUN=N")
        named[run] = int(number)
    return named
