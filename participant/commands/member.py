"""``onlysum participant member``: who the others are.

Guarantees: fingerprints are those that owners compare by telephone.
Leaves to others: what is shown (``participant.views.members``).
"""

from __future__ import annotations

import re
from typing import Annotated

import typer

from host.console import AsJson, show, show_view
from participant.commands.console import Directory, opened

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List members and their fingerprints.")


@app.command("list")
def list_members(config: Directory = None, as_json: AsJson = False) -> None:
    """List who is enrolled, with fingerprints to compare.

    It is the coordinator who says so, until the fingerprints are compared by telephone.

    Example: onlysum participant member list
    """
    from participant.views.members import member_list

    show_view(member_list(opened(config)), as_json=as_json)


@app.command("fingerprint")
def show_fingerprints(
    mine: Annotated[
        bool, typer.Option("--mine", help="Only this participant's, and nothing else on the line.")
    ] = False,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show this participant's own fingerprint.

    It is to be read to the other owners; the authority's stands beside it.

    Example: onlysum participant member fingerprint
    """
    from participant.views.members import own_fingerprints

    known = own_fingerprints(opened(config))
    if mine:
        show(known.identity, [known.identity], as_json=as_json)
    else:
        show_view(known, as_json=as_json)


@app.command("pin")
def pin_member(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A member.")],
    fingerprint: Annotated[
        str,
        typer.Argument(metavar="[FINGERPRINT]", help="As its owner reads it to you; asked for if missing."),
    ] = "",
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Compare a member's fingerprint and pin it, in one step.

    What its owner reads to you by telephone is compared with what the
    coordinator says; only if both are the same, it is pinned.

    Example: onlysum participant member pin hospital-b "0123 4567 89ab cdef 0123 4567 89ab cdef"
    """
    import sys

    from host.fingerprints import matches
    from participant.page.proposal import pin
    from participant.views.members import listed_key
    from privacy.errors import LocalError, VerificationError

    participant = opened(config)
    key = listed_key(participant, name)
    if not fingerprint and not sys.stdin.isatty():
        raise LocalError("E-USAGE", "give the fingerprint that its owner reads to you: there is no terminal to ask")
    heard = fingerprint or str(typer.prompt(f"Fingerprint, as the owner of {name} reads it to you"))
    digits = "".join(heard.lower().replace(":", "").replace("-", "").split())
    if not re.fullmatch(r"[0-9a-f]{32,64}", digits):
        raise LocalError("E-USAGE", "a fingerprint is at least 32 hexadecimal digits: compare all of them")
    if not matches(key, digits):
        detail = f"the coordinator lists another key for {name} than its owner reads to you; nothing was pinned"
        raise VerificationError("E-IDENTITY-DIFFERS", detail)
    pin(participant.home, name, digits)
    show({"name": name, "pinned": digits}, [f"Pinned {name}: the fingerprints are the same."], as_json=as_json)
