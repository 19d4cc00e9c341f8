"""``onlysum participant member``: who the others are.

Guarantees: fingerprints are those that owners compare by telephone.
Leaves to others: what is shown (``participant.views.members``).
"""

from __future__ import annotations

import typer

from host.console import AsJson, show_view
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
def show_fingerprints(config: Directory = None, as_json: AsJson = False) -> None:
    """Show this participant's own fingerprint.

    It is to be read to the other owners; the authority's stands beside it.

    Example: onlysum participant member fingerprint
    """
    from participant.views.members import own_fingerprints

    show_view(own_fingerprints(opened(config)), as_json=as_json)
