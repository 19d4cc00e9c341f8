"""``onlysum participant member``: who the others are.

Guarantees: fingerprints are those that owners compare by telephone.
Leaves to others: what is shown (``participant.views.members``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import AsJson, say, show, show_view
from participant.commands.console import Directory, Heard, opened
from privacy.error_codes import Fault

if TYPE_CHECKING:
    from host.rendering import Json

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
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A member; not with --all.")] = "",
    fingerprint: Annotated[
        str,
        typer.Argument(metavar="[FINGERPRINT]", help="As its owner reads it to you; asked for if missing."),
    ] = "",
    *,
    everybody: Annotated[
        bool, typer.Option("--all", help="All participants, by one fingerprint of the roster.")
    ] = False,
    heard: Heard = "",
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Compare fingerprints and pin them, in one step.

    What the owner of NAME reads to you by telephone is compared with what the
    coordinator says; only if both are the same, it is pinned. With --all it is
    one fingerprint of the whole roster, which all owners see alike.

    Example: onlysum participant member pin hospital-b "0123 4567 89ab cdef 0123 4567 89ab cdef"
    """
    from privacy.errors import LocalError

    if everybody == bool(name) or (heard and not everybody):
        raise LocalError("E-USAGE", "give NAME and its fingerprint, or --all and, without a terminal, --heard")
    if everybody:
        _pin_everybody(config, heard, as_json=as_json)
    else:
        _pin_one(config, name, fingerprint, as_json=as_json)


def _pin_one(config: Path | None, name: str, fingerprint: str, *, as_json: bool) -> None:
    import sys

    from host.fingerprints import digits_of, matches
    from participant.page.pins import pin
    from participant.views.members import listed_key
    from privacy.errors import LocalError, VerificationError

    participant = opened(config)
    key = listed_key(participant, name)
    if not fingerprint and not sys.stdin.isatty():
        raise LocalError("E-USAGE", "give the fingerprint that its owner reads to you: there is no terminal to ask")
    digits = digits_of(fingerprint or str(typer.prompt(f"Fingerprint, as the owner of {name} reads it to you")))
    if not re.fullmatch(r"[0-9a-f]{32,64}", digits):
        raise LocalError("E-USAGE", "a fingerprint is at least 32 hexadecimal digits: compare all of them")
    if not matches(key, digits):
        detail = f"the coordinator lists another key for {name} than its owner reads to you; nothing was pinned"
        raise VerificationError("E-IDENTITY-DIFFERS", detail)
    pin(participant.home, {name: key})
    show({"name": name, "pinned": digits}, [f"Pinned {name}: the fingerprints are the same."], as_json=as_json)


def _pin_everybody(config: Path | None, heard: str, *, as_json: bool) -> None:
    from participant.commands.asking import compare_roster
    from participant.owner.policy import load_policy
    from participant.page.pins import compared_roster, pin
    from participant.views.members import participant_keys

    participant = opened(config)
    roster = compared_roster(participant.owner, participant_keys(participant))
    fresh = roster.unpinned(load_policy(participant.home).coordinator.roster)
    if not fresh:
        show({"pinned": []}, ["Everybody is pinned already."], as_json=as_json)
        return
    if not compare_roster(roster, heard):
        say("Nothing was pinned. If a digit or a name differs, tell the other owners: somebody may stand in for one.")
        raise typer.Exit(Fault.REFUSED)
    pin(participant.home, fresh)
    value: Json = {"pinned": [*sorted(fresh)], "roster_fingerprint": roster.fingerprint}
    show(value, [f"Pinned {', '.join(sorted(fresh))}: the fingerprint of the roster is the same."], as_json=as_json)
