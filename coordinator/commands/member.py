"""``onlysum coordinator member``: who is enrolled.

Guarantees: fingerprints are those that owners compare by telephone. Leaves to others: inviting
(``coordinator.commands.coordinator``), what is shown (``coordinator.views.members``).
"""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.commands.console import Directory, complete_members, now, opened
from host.console import AsJson, show, show_view

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="See and revoke members.")
MemberName = Annotated[str, typer.Argument(metavar="NAME", help="A member.", autocompletion=complete_members)]


@app.command("list")
def list_members(config: Directory = None, as_json: AsJson = False) -> None:
    """List all members.

    Example: onlysum coordinator member list
    """
    from coordinator.views.members import member_list

    with opened(config) as coordinator:
        show_view(member_list(coordinator), as_json=as_json)


@app.command("show")
def show_member(name: MemberName, config: Directory = None, as_json: AsJson = False) -> None:
    """Show a member: its key's fingerprint and what it announced.

    Example: onlysum coordinator member show hospital-a
    """
    from coordinator.views.members import member_details

    with opened(config) as coordinator:
        show_view(member_details(coordinator, name), as_json=as_json)


@app.command("fingerprint")
def show_fingerprints(config: Directory = None, as_json: AsJson = False) -> None:
    """Print the fingerprints to compare by telephone.

    They are the authority's, the operator's and the members'.

    Example: onlysum coordinator member fingerprint
    """
    from coordinator.views.members import fingerprints

    with opened(config) as coordinator:
        show_view(fingerprints(coordinator), as_json=as_json)


@app.command("revoke")
def revoke_member(name: MemberName, config: Directory = None, as_json: AsJson = False) -> None:
    """Revoke a member's key at once. Runs with it on the roster end.

    Example: onlysum coordinator member revoke hospital-a
    """
    from coordinator.database import member_rows

    with opened(config) as coordinator, coordinator.store.begin() as connection:
        member_rows.revoke_member(connection, name, now())
    lines = [f"Revoked {name}. Runs with it on the roster end. To enrol it again: onlysum coordinator invite {name}"]
    show({"name": name, "revoked": True}, lines, as_json=as_json)
