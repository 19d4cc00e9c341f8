"""``onlysum coordinator member``: who is enrolled.

Guarantees: fingerprints are those that owners compare by telephone. Leaves to others: inviting
(``coordinator.commands.coordinator``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.commands.console import HERE, Directory, now, opened
from host.console import AsJson, Json, moment, show, table

if TYPE_CHECKING:
    from coordinator.database.member_rows import MemberRecord

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="See and revoke members.")


def _as_value(one: MemberRecord, live: tuple[str, ...]) -> dict[str, Json]:
    from host.credentials import fingerprint

    return {
        "name": one.name,
        "role": one.role.value,
        "active": one.active,
        "live": one.name in live,
        "identity_fingerprint": fingerprint(one.identity_key),
        "software_version": one.software_version,
        "labels": one.labels,
        "enrolled_at": one.enrolled_at,
        "revoked_at": one.revoked_at,
    }


@app.command("list")
def list_all(config: Directory = HERE, as_json: AsJson = False) -> None:
    """List all members.

    Example: onlysum coordinator member list
    """
    from coordinator.daemon.status import read_status
    from coordinator.database import member_rows

    with opened(config) as here:
        status = read_status(here.home)
        with here.store.read() as connection:
            members = member_rows.list_members(connection)
    live = status.live if status else ()
    rows = [
        (one.name, one.role.value, "revoked" if not one.active else "here" if one.name in live else "away",
         one.software_version or "-", moment(one.enrolled_at))
        for one in members
    ]  # fmt: skip
    header = ("NAME", "ROLE", "STATE", "VERSION", "ENROLLED (UTC)")
    lines = table(header, rows) if rows else ["No members yet. Next: onlysum coordinator invite NAME"]
    show([_as_value(one, live) for one in members], lines, as_json=as_json)


@app.command("show")
def show_one(
    name: Annotated[str, typer.Argument(help="A member.")], config: Directory = HERE, as_json: AsJson = False
) -> None:
    """Show a member: its key's fingerprint and what it announced.

    Example: onlysum coordinator member show hospital-a
    """
    from coordinator.daemon.status import read_status
    from coordinator.database import member_rows
    from privacy.errors import LocalError

    with opened(config) as here:
        status = read_status(here.home)
        with here.store.read() as connection:
            member = member_rows.find_member(connection, name)
            offers = member_rows.announced(connection, name)
    if member is None:
        raise LocalError("E-NOT-FOUND", f"no member {name}")
    value = _as_value(member, status.live if status else ())
    value["datasets"] = [{"name": one.name, "units": one.units} for one in offers]
    lines = [f"{key.replace('_', ' '):<21}{text}" for key, text in value.items() if key != "datasets"]
    lines += [f"{'dataset':<21}{one.name}, {one.units} units" for one in offers]
    show(value, lines, as_json=as_json)


@app.command()
def fingerprint(config: Directory = HERE, as_json: AsJson = False) -> None:
    """Print the fingerprints to compare by telephone.

    They are the authority's, the operator's and the members'.

    Example: onlysum coordinator member fingerprint
    """
    from coordinator.database import member_rows
    from host import credentials

    with opened(config) as here:
        authority = here.authority()
        with here.store.read() as connection:
            members = [one for one in member_rows.list_members(connection) if one.active]
    prints = {"authority": authority.fingerprint, "operator": credentials.fingerprint(authority.operator.public)}
    identities = {one.name: credentials.fingerprint(one.identity_key) for one in members}
    value: Json = {**prints, "members": dict(identities)}
    lines = [f"{name:<20} {text}" for name, text in {**prints, **identities}.items()]
    show(value, lines, as_json=as_json)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="A member.")], config: Directory = HERE, as_json: AsJson = False
) -> None:
    """Revoke a member's key at once. Runs with it on the roster end.

    Example: onlysum coordinator member revoke hospital-a
    """
    from coordinator.database import member_rows

    with opened(config) as here, here.store.begin() as connection:
        member_rows.revoke_member(connection, name, now())
    lines = [f"Revoked {name}. Runs with it on the roster end. To enrol it again: onlysum coordinator invite {name}"]
    show({"name": name, "revoked": True}, lines, as_json=as_json)
