"""``onlysum coordinator``: the operator's commands.

Guarantees: help needs no other module of this package; commands and daemon share the database, so a command works
whether or not the daemon runs.
Leaves to others: runs (``coordinator.commands.run``), members (``coordinator.commands.member``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from coordinator.commands import member, run, security, user
from coordinator.commands.choices import MemberRole
from coordinator.commands.console import Directory, directory, now, opened, seconds
from host.console import AsJson, show, show_view
from host.rendering import Json, moment, timestamp
from privacy.error_codes import Fault
from privacy.errors import LocalError

if TYPE_CHECKING:
    from coordinator.daemon.status import DaemonStatus
    from coordinator.opened import OpenHome

PLACEHOLDER: Final = b" " * 512  # more than an invitation: the disk has room for one
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Run the service that sums; invite members, create runs.",
)
app.add_typer(member.app, name="member")
app.add_typer(run.app, name="run")
app.add_typer(security.app, name="security")
app.add_typer(user.app, name="user")


@app.command()
def init(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="The new coordinator's directory.")],
    *,
    name: Annotated[str, typer.Option("--name", help="Name of the federation.")],
    operator: Annotated[str, typer.Option("--operator", help="Who runs the coordinator, e.g. an institute.")],
    address: Annotated[str, typer.Option("--address", help="host:port that members dial.")] = "localhost:8443",
    enrolment_address: Annotated[
        str, typer.Option("--enrolment-address", help="host:port that newcomers dial; by default the next port.")
    ] = "",
    admin: Annotated[
        str, typer.Option("--admin", metavar="HOST:PORT", help="Dashboard and metrics; by default here, the next port.")
    ] = "",
    database: Annotated[
        str, typer.Option("--database", metavar="URL", help="An empty database on a server; by default a file here.")
    ] = "",
    also: Annotated[
        list[str] | None,
        typer.Option("--also-participant", help="A participant whose organisation also runs this coordinator."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a coordinator: its configuration, keys and database.

    Example: onlysum coordinator init clinic --name clinics --operator "Institute" --address sum.example.org:8443
    """
    from coordinator.config import settings_template
    from coordinator.enrolment.create import create_coordinator
    from coordinator.home import Home
    from host.fingerprints import fingerprint
    from host.system import SystemRandom
    from protos.invitation import is_address

    home, enrolment = Home(target), enrolment_address or _next_port(address)
    if home.config.exists():
        raise LocalError("E-EXISTS", str(home.config))
    for option, given in (("--address", address), ("--enrolment-address", enrolment)):
        if not is_address(given):
            raise LocalError("E-USAGE", f"{option} {given!r} is not host:port with a port from 1 to 65535")
    text = settings_template(
        federation=name,
        operator=operator,
        also=also or [],
        participants=address,
        enrolment=enrolment,
        database=database or None,
        admin=admin or _admin_address(address, enrolment),
    )
    made = create_coordinator(home, text, now=now(), random=SystemRandom())
    value: Json = {
        "directory": str(target),
        "federation": name,
        "authority_fingerprint": made.fingerprint,
        "operator_fingerprint": fingerprint(made.operator.public),
        "address": address,
        "enrolment_address": enrolment,
    }
    lines = [
        f"Made {target}/: coordinator.toml, authority/ (keys, 0600){'' if database else ', coordinator.db'}",
        f"  authority  {made.fingerprint}",
        f"  operator   {fingerprint(made.operator.public)}",
        "Keep authority/ safe: whoever has operator.key can sign plans.",
        f"Next: onlysum coordinator start --config {shlex.quote(str(target))}",
    ]
    show(value, lines, as_json=as_json)


def _next_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + 1}" if re.fullmatch("[0-9]{1,5}", port) else address


def _admin_address(address: str, enrolment: str) -> str | None:
    """Return where the dashboard is served on this machine; nowhere without its packages."""
    taken, port = int(address.rpartition(":")[2]), int(enrolment.rpartition(":")[2]) + 1
    port += port == taken
    return f"127.0.0.1:{port}" if find_spec("starlette") is not None and port < 2**16 else None


@app.command()
def start(config: Directory = None, as_json: AsJson = False) -> None:
    """Run the service in the foreground; Ctrl-C ends it.

    Example: onlysum coordinator start --config clinic
    """
    from coordinator.config import load_settings
    from coordinator.daemon import process
    from coordinator.enrolment.authority import load_authority
    from coordinator.home import Home

    home = Home(directory(config))
    settings, authority = load_settings(home), load_authority(home.authority)

    def ready(status: DaemonStatus) -> None:
        value: Json = {
            "address": status.address,
            "enrolment_address": status.enrolment_address,
            "admin_address": status.admin_address,
        }
        seen = f", dashboard at http://{status.admin_address}" if status.admin_address else ""
        line = f"Ready: members at {status.address}, newcomers at {status.enrolment_address}{seen}. Ctrl-C ends."
        typer.echo(line if not as_json else _compact(value))

    process.start(settings.placed(home), settings, authority, ready)


def _compact(value: Json) -> str:
    import json

    return json.dumps(value)


@app.command()
def status(config: Directory = None, as_json: AsJson = False) -> None:
    """Show the service's state, connected members and open runs.

    The exit code is 0 if the service runs, 3 if not: a person has to start it.

    Example: onlysum coordinator status
    """
    from coordinator.views.status import service_status

    with opened(config) as coordinator:
        current = service_status(coordinator, now())
    show_view(current, as_json=as_json)
    if not current.running:
        raise typer.Exit(Fault.REFUSED)


@app.command("inbox")
def show_inbox(config: Directory = None, as_json: AsJson = False) -> None:
    """Show what waits for you.

    Plans without an answer, invitations and certificates that end soon, disk
    and backup.

    Example: onlysum coordinator inbox
    """
    from coordinator.views.inbox import inbox

    with opened(config) as coordinator:
        show_view(inbox(coordinator, now()), as_json=as_json)


@app.command()
def invite(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names that the newcomers will have.")],
    *,
    role: Annotated[MemberRole, typer.Option("--role", help="What the newcomer will be.")] = MemberRole.PARTICIPANT,
    evaluator: Annotated[
        list[str] | None, typer.Option("--evaluator", metavar="NAME", help="Invite an evaluator too; repeatable.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="Kept with the member.")] = None,
    expires: Annotated[str, typer.Option("--expires", help="How long the invitation is valid.")] = "7d",
    again: Annotated[
        bool, typer.Option("--again", help="Of a member whose certificate has ended: same identity, new certificate.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="A new file, 0600; of several names, a directory of them."),
    ] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Make an invitation: one line that lets one newcomer join once.

    Of several names each gets a line of its own, with -o in DIR/NAME.token.

    Example: onlysum coordinator invite hospital-a --expires 2d
    """
    made: list[Json] = []
    lines: list[str] = []
    roles = [*((name, role) for name in names), *((name, MemberRole.EVALUATOR) for name in evaluator or ())]
    if len({name for name, _ in roles}) < len(roles):
        raise LocalError("E-USAGE", "each name once: a second invitation would void the first")
    files = {name: out / f"{name}.token" if out is not None and len(roles) > 1 else out for name, _ in roles}
    with opened(config) as coordinator, _reserved(file for file in files.values() if file is not None):
        until = now() + seconds(expires)
        for name, as_role in roles:
            file = files[name]
            value, said = _invited(coordinator, name, as_role, label or [], until, out=file, again=again)
            made.append(value)
            lines += [*([""] if lines else []), *said]
    show(made[0] if len(made) == 1 else made, lines, as_json=as_json)


@contextmanager
def _reserved(files: Iterable[Path]) -> Iterator[None]:
    """Hold new files while invitations are made: one without a line voids the invitation before it, for nothing.

    Raises:
        LocalError: ``E-EXISTS``, ``E-NOT-FOUND``, ``E-PERMISSIONS`` or ``E-DISK-FULL``, before anything is made.
    """
    from host import durable

    held: list[Path] = []
    try:
        for file in files:
            durable.write_new(file, PLACEHOLDER, mode=durable.FILE_MODE)
            held.append(file)
        yield
    finally:
        for file in held:
            if file.read_bytes() == PLACEHOLDER:
                file.unlink()


def _invited(
    coordinator: OpenHome,
    name: str,
    role: MemberRole,
    labels: list[str],
    until: int,
    *,
    out: Path | None,
    again: bool,
) -> tuple[Json, list[str]]:
    from coordinator.database import member_rows
    from coordinator.enrolment.invitations import make_invitation
    from host import durable
    from protos.envelope import Role

    with coordinator.store.read() as connection:
        unused = [token for token in member_rows.list_tokens(connection) if token.used_at is None]
    replaced = any(token.name == name and token.expires_at > now() for token in unused)
    line = make_invitation(coordinator, name=name, role=Role(role), labels=labels, now=now(), until=until, again=again)
    if out is not None:
        durable.write(out, f"{line}\n".encode())
    value: Json = {
        "name": name,
        "role": role.value,
        "token": line,
        "expires_at": timestamp(until),
        "replaced": replaced,
    }
    what = "this line" if out is None else f"the line in {out}"
    lines = [
        *([line, ""] if out is None else []),
        f"Send {what} to {name} over a private channel; it expires at {moment(until)} UTC.",
        *(["Its previous invitation is now void."] if replaced else []),
        f"There, with the line in a file: onlysum participant {'renew' if again else 'join'} FILE",
    ]
    return value, lines


@app.command()
def renew(
    authority: Annotated[
        bool, typer.Option("--authority", help="Put a new authority in the place of the present one, which names it.")
    ] = False,
    overlap: Annotated[
        str,
        typer.Option(
            "--overlap",
            metavar="DAYS",
            help="How long the old authority still counts, e.g. 30d; default: as long as members' certificates hold.",
        ),
    ] = "",
    address: Annotated[
        str,
        typer.Option("--address", metavar="HOST:PORT", help="What members dial from now on; the old one answers too."),
    ] = "",
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Renew the certificate; replace the authority or the address.

    Members' certificates are renewed by their own daemons. A running service
    takes up certificates by itself, within seconds.

    Example: onlysum coordinator renew --authority --config clinic
    """
    from coordinator.commands.renewing import renew_all

    if overlap and not authority:
        raise LocalError("E-USAGE", "--overlap is of --authority")
    value, lines = renew_all(directory(config), authority=authority, overlap=overlap, address=address)
    show(value, lines, as_json=as_json)


@app.command()
def doctor(
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Write a zip for support: no keys, no data.")] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Check configuration, keys, database, disk and ports.

    Example: onlysum coordinator doctor --bundle report.zip
    """
    from coordinator.daemon.doctor import examine
    from coordinator.home import Home

    examination = examine(Home(directory(config)), now(), bundle)
    show_view(examination, as_json=as_json)
    if not examination.ok:
        raise typer.Exit(2)


@app.command()
def migrate(config: Directory = None, as_json: AsJson = False) -> None:
    """Bring the database to this version's schema. `start` does so by itself.

    Example: onlysum coordinator migrate
    """
    from coordinator.config import load_settings
    from coordinator.database import engines, store
    from coordinator.home import Home

    home = Home(directory(config))
    engine = store.existing(load_settings(home).database_url(home), unused=home.unused.exists())
    with engines.refusals():
        before = store.revision(engine)
        store.upgrade(engine)
    engine.dispose()
    show({"from": before, "to": store.HEAD}, [f"schema {before or 'none'} -> {store.HEAD}"], as_json=as_json)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write; it holds the keys, so it is 0600.")],
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Write configuration, keys, database and runs to one archive.

    The service may run meanwhile.

    Example: onlysum coordinator backup /secure/clinic.tar.gz
    """
    from coordinator.daemon.backup import write_backup
    from coordinator.database import member_rows
    from coordinator.views.inbox import BACKED_UP

    with opened(config) as coordinator:
        size = write_backup(coordinator, file)
        with coordinator.store.begin() as connection:
            member_rows.log_security(connection, now(), BACKED_UP, coordinator.settings.federation, f"{size} bytes")
        place = "" if coordinator.content is None else coordinator.content.blobs.place
    lines = [f"Wrote {file} ({size} bytes). It holds the keys of this federation: keep it as safe as the machine."]
    if place:
        lines.append(
            f"In it are the files of runs that {place} has now, and no upload: restore puts back what is missing there."
        )
    show({"file": str(file), "bytes": size}, lines, as_json=as_json)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="An archive that `backup` wrote.")],
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Restore a backup where no coordinator is yet.

    Open attempts are given up, because participants may have passed them.

    Example: onlysum coordinator restore /secure/clinic.tar.gz --config clinic
    """
    from coordinator.daemon.backup import read_backup

    target = directory(config)
    given_up, given = read_backup(file, target, now()), shlex.quote(str(target))
    lines = [
        f"Restored {target}/. {given_up} open attempts were given up: participants may have passed them.",
        f"Next: `onlysum coordinator doctor --config {given}`, then `onlysum coordinator start --config {given}`",
    ]
    show({"directory": str(target), "attempts_given_up": given_up}, lines, as_json=as_json)
