"""``onlysum coordinator``: the operator's commands.

Guarantees: help needs no other module of this package; commands and daemon share the database, so a command works
whether or not the daemon runs.
Leaves to others: runs (``coordinator.commands.run``), members (``coordinator.commands.member``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.commands import member, run
from coordinator.commands.console import HERE, Directory, now, opened, seconds
from host.console import AsJson, Json, moment, show, table
from privacy.errors import LocalError

if TYPE_CHECKING:
    from coordinator.daemon.status import DaemonStatus

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Run the service that sums; invite members, create runs.",
)
app.add_typer(member.app, name="member")
app.add_typer(run.app, name="run")


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where everything of this coordinator lies.")],
    *,
    name: Annotated[str, typer.Option("--name", help="Name of the federation.")],
    operator: Annotated[str, typer.Option("--operator", help="Who runs the coordinator, e.g. an institute.")],
    address: Annotated[str, typer.Option("--address", help="host:port that members dial.")] = "localhost:8443",
    enrolment_address: Annotated[
        str, typer.Option("--enrolment-address", help="host:port that newcomers dial; by default the next port.")
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
    from coordinator.config import Home, render
    from coordinator.enrolment.create import create_coordinator
    from host.credentials import fingerprint
    from host.system import SystemRandom
    from protos.invitation import is_address

    home, enrolment = Home(directory), enrolment_address or _next_port(address)
    if home.config.exists():
        raise LocalError("E-EXISTS", str(home.config))
    for option, given in (("--address", address), ("--enrolment-address", enrolment)):
        if not is_address(given):
            raise LocalError("E-USAGE", f"{option} {given!r} is not host:port with a port from 1 to 65535")
    text = render(federation=name, operator=operator, also=also or [], participants=address, enrolment=enrolment)
    made = create_coordinator(home, text, now=now(), random=SystemRandom())
    value: Json = {
        "directory": str(directory),
        "federation": name,
        "authority_fingerprint": made.fingerprint,
        "operator_fingerprint": fingerprint(made.operator.public),
        "address": address,
        "enrolment_address": enrolment,
    }
    lines = [
        f"Made {directory}/: coordinator.toml, authority/ (keys, 0600), coordinator.db",
        f"  authority  {made.fingerprint}",
        f"  operator   {fingerprint(made.operator.public)}",
        "Keep authority/ safe: whoever has operator.key can sign plans.",
        f"Next: onlysum coordinator start --config {directory}",
    ]
    show(value, lines, as_json=as_json)


def _next_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + 1}" if port.isdigit() else address


@app.command()
def start(config: Directory = HERE, as_json: AsJson = False) -> None:
    """Run the service in the foreground; end it with Ctrl-C or SIGTERM.

    Example: onlysum coordinator start --config clinic
    """
    from coordinator.config import Home, load
    from coordinator.daemon import process
    from coordinator.enrolment.authority import load_authority

    home = Home(config)
    settings, authority = load(home), load_authority(home.authority)

    def ready(status: DaemonStatus) -> None:
        value: Json = {"address": status.address, "enrolment_address": status.enrolment_address}
        line = f"Ready: members at {status.address}, newcomers at {status.enrolment_address}. Ctrl-C ends."
        typer.echo(line if not as_json else _compact(value))

    process.start(home, settings, authority, ready)


def _compact(value: Json) -> str:
    import json

    return json.dumps(value)


@app.command()
def status(config: Directory = HERE, as_json: AsJson = False) -> None:
    """Show the service's state, connected members and open runs.

    Example: onlysum coordinator status
    """
    from coordinator.daemon.status import read_status
    from coordinator.database import member_rows, run_rows

    with opened(config) as here:
        status = read_status(here.home)
        with here.store.read() as connection:
            members = [one for one in member_rows.list_members(connection) if one.active]
            tokens = [one for one in member_rows.list_tokens(connection) if one.used_at is None]
            going = [one for one in run_rows.list_runs(connection) if not one.state.ended]
    live = status.live if status else ()
    waiting = [one.name for one in tokens if one.expires_at > now()]
    value: Json = {
        "federation": here.settings.federation,
        "running": status is not None,
        "pid": status.pid if status else None,
        "address": here.settings.participants.address,
        "members": [{"name": one.name, "role": one.role.value, "live": one.name in live} for one in members],
        "invited": list(waiting),
        "runs": [{"run": one.run_id, "state": one.state.value, "paused": one.paused} for one in going],
    }
    lines = [
        f"federation {here.settings.federation}, {here.settings.participants.address}: "
        + (f"running (pid {status.pid})" if status else "not running; start it: onlysum coordinator start"),
        *table(
            ("MEMBER", "ROLE", "HERE"),
            [(one.name, one.role.value, "yes" if one.name in live else "no") for one in members],
        ),
        *([f"invited, not yet joined: {', '.join(waiting)}"] if waiting else []),
        *[f"run {one.run_id} {one.state.value}{' (paused)' if one.paused else ''}" for one in going],
    ]
    show(value, lines, as_json=as_json)


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="Name that the newcomer will have.")],
    role: Annotated[str, typer.Option("--role", help="participant or evaluator.")] = "participant",
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="Kept with the member.")] = None,
    expires: Annotated[str, typer.Option("--expires", help="How long the invitation holds.")] = "7d",
    config: Directory = HERE,
    as_json: AsJson = False,
) -> None:
    """Make an invitation: one line that lets one newcomer join once.

    Example: onlysum coordinator invite hospital-a --expires 2d
    """
    from coordinator.database import member_rows
    from coordinator.enrolment.invitations import make_invitation

    with opened(config) as here:
        until = now() + seconds(expires)
        with here.store.read() as connection:
            open_ones = [one for one in member_rows.list_tokens(connection) if one.used_at is None]
        replaced = any(one.name == name and one.expires_at > now() for one in open_ones)
        line = make_invitation(here, name=name, role=role, labels=label or [], now=now(), until=until)
    value: Json = {"name": name, "role": role, "token": line, "expires_at": until, "replaced": replaced}
    lines = [
        line,
        "",
        f"Hand this line to {name} by a way that nobody else reads; it holds until {moment(until)} UTC.",
        *(["The invitation that it had before no longer holds."] if replaced else []),
        "There: onlysum participant join TOKEN",
    ]
    show(value, lines, as_json=as_json)


@app.command()
def doctor(
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Write a zip for support: no keys, no data.")] = None,
    config: Directory = HERE,
    as_json: AsJson = False,
) -> None:
    """Check configuration, keys, database, disk and ports.

    Example: onlysum coordinator doctor --bundle report.zip
    """
    from coordinator.config import Home
    from coordinator.daemon.doctor import examine, write_bundle

    checks = examine(Home(config), now())
    if bundle is not None:
        write_bundle(bundle, Home(config), checks)
    value: Json = {
        "ok": all(one.ok for one in checks),
        "checks": [{"name": one.name, "ok": one.ok, "detail": one.detail} for one in checks],
        "bundle": str(bundle) if bundle else None,
    }
    lines = [f"{'ok  ' if one.ok else 'FAIL'} {one.name}: {one.detail}" for one in checks]
    show(value, [*lines, *([f"wrote {bundle}"] if bundle else [])], as_json=as_json)
    if not all(one.ok for one in checks):
        raise typer.Exit(2)


@app.command()
def migrate(config: Directory = HERE, as_json: AsJson = False) -> None:
    """Bring the database to this version's schema. `start` does so by itself.

    Example: onlysum coordinator migrate
    """
    from coordinator.config import Home, load
    from coordinator.database import store

    home = Home(config)
    engine = store.existing(home.database_url(load(home)))
    before = store.revision(engine)
    store.upgrade(engine)
    engine.dispose()
    show({"from": before, "to": store.HEAD}, [f"schema {before or 'none'} -> {store.HEAD}"], as_json=as_json)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write; it holds the keys, so it is 0600.")],
    config: Directory = HERE,
    as_json: AsJson = False,
) -> None:
    """Write configuration, keys, database and runs to one archive.

    The service may run meanwhile.

    Example: onlysum coordinator backup /secure/clinic.tar.gz
    """
    from coordinator.daemon.backup import write_backup

    with opened(config) as here:
        size = write_backup(here, file)
    lines = [f"Wrote {file} ({size} bytes). It holds the keys of this federation: keep it as safe as the machine."]
    show({"file": str(file), "bytes": size}, lines, as_json=as_json)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="An archive that `backup` wrote.")],
    config: Directory = HERE,
    as_json: AsJson = False,
) -> None:
    """Restore a backup where no coordinator is yet.

    Open attempts are given up, because participants may have passed them.

    Example: onlysum coordinator restore /secure/clinic.tar.gz --config clinic
    """
    from coordinator.daemon.backup import read_backup

    given_up = read_backup(file, config, now())
    lines = [
        f"Restored {config}/. {given_up} open attempts were given up: participants may have passed them.",
        f"Next: onlysum coordinator doctor --config {config}, then start",
    ]
    show({"directory": str(config), "attempts_given_up": given_up}, lines, as_json=as_json)
