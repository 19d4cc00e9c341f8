"""``onlysum participant``: the data owner's commands.

Guarantees: help imports nothing heavy; commands and daemon share the directory, so a command works whether or not the
daemon runs.
Leaves to others: the nouns, one module each, and what is shown (``participant.views``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import AsJson, show, show_view, working
from participant.commands import dataset, ledger, member, model, page, plan, policy, run
from participant.commands.console import Directory, directory, opened
from privacy.error_codes import Fault

if TYPE_CHECKING:
    from host.rendering import Json
    from participant.daemon.joining import Joined

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Join, add data, approve plans, train, see spend.",
)
for noun, module in (
    ("dataset", dataset),
    ("model", model),
    ("plan", plan),
    ("policy", policy),
    ("ledger", ledger),
    ("member", member),
    ("run", run),
):
    app.add_typer(module.app, name=noun)
app.command("page")(page.page)


@app.command()
def join(
    token: Annotated[
        str, typer.Argument(metavar="TOKEN", help="A file with the operator's line, the line, or - for standard input.")
    ],
    *,
    data: Annotated[
        str, typer.Option("--data", metavar="[NAME=]PATH", help="Register this dataset, as `dataset add` does.")
    ] = "",
    population: Annotated[str | None, typer.Option("--population", help="Whose budget it spends.")] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="COLUMN", help="Column that identifies the person in each row.")
    ] = None,
    base: Annotated[
        str, typer.Option("--base", metavar="[NAME=]PATH", help="Register this base model, as `model add` does.")
    ] = "",
    then_start: Annotated[bool, typer.Option("--start", help="Then run the daemon, as `start` does.")] = False,
    proxy: Annotated[str, typer.Option("--proxy", help="HTTPS CONNECT proxy, http://host:port.")] = "",
    ledgers: Annotated[
        Path | None,
        typer.Option(
            "--ledgers",
            metavar="DIR",
            envvar="ONLYSUM_LEDGERS",
            help="This machine's ledgers; one place for all federations.",
        ),
    ] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Enrol with an invitation.

    Makes keys, gets a certificate, and writes a policy that allows nothing.
    Data and base model that are given are read to the end before the
    invitation is spent. On a terminal it goes on to ask for what is missing.

    Example: onlysum participant join hospital-a.token --data wards.csv --population patients --base /models/minilm
    """
    from host.system import SystemClock, SystemRandom
    from participant.commands import equipment, guided
    from participant.daemon.joining import join as enrol
    from privacy.errors import LocalError
    from protos.envelope import Role

    if not data and (population or user):
        raise LocalError("E-USAGE", "--population and --user belong to --data")
    line = _line_of(token)
    home = directory(config).resolve()
    equipped = equipment.examine(data, base, population=population, user=user)
    with working("enrolling with the coordinator"):
        joined = enrol(line, home, clock=SystemClock(), random=SystemRandom(), ledgers=ledgers, proxy=proxy)
    value, lines = _joined(joined, home)
    try:
        lines += equipped.register(opened(config))
        value["dataset"] = equipped.dataset.name if equipped.dataset else None
        value["base"] = equipped.model.hash if equipped.model else None
    finally:  # whatever registering says: the invitation is spent, and here is what came of it
        show(value, lines, as_json=as_json)
    if then_start:
        start(config)
    elif not as_json:
        guided.go_on(config, evaluator=joined.identity.role is Role.EVALUATOR, data=not data, base=not base)


def _line_of(token: str) -> str:
    """Return the operator's line: of standard input, of a file, or as it was given.

    Raises:
        LocalError: ``E-TOKEN-INVALID``: it is neither a line nor a file that can be read.
    """
    import sys

    from privacy.errors import LocalError
    from protos.invitation import MAX_LINE, PREFIX

    if token == "-":  # noqa: S105  # a dash is no secret
        return sys.stdin.read() if sys.stdin is not None else ""  # none where a service closed it
    if token.startswith(PREFIX):
        return token
    try:
        with Path(token).open(encoding="ascii") as file:
            return file.read(2 * MAX_LINE)  # a longer one is refused as any that is too long
    except (OSError, ValueError):
        raise LocalError("E-TOKEN-INVALID", "it is no line of an operator, and no file that has one") from None


def _joined(joined: Joined, home: Path) -> tuple[dict[str, Json], list[str]]:
    """Return what to say of a new membership, to programs and to people."""
    from host.fingerprints import fingerprint

    identity, ledger = joined.identity, joined.ledgers.file(joined.member.ledger)
    authority = fingerprint(identity.authority_der)
    value: dict[str, Json] = {
        "directory": str(home),
        "name": identity.name,
        "role": identity.role.value,
        "federation": identity.federation,
        "identity": identity.fingerprint,
        "authority": authority,
        "operator": fingerprint(identity.operator_key),
        "ledger": str(ledger),
        "ledger_shared_with": [f"{other.name} of {other.federation}" for other in joined.sharing],
    }
    lines = [
        f"Joined {identity.federation} as {identity.role.value} {identity.name}; everything is in {home}",
        f"  your identity  {identity.fingerprint}",
        f"  the authority  {authority}",
        f"  the operator   {fingerprint(identity.operator_key)}",
        "Compare them with the operator by telephone.",
        f"Budget is charged to {ledger}" + (", as it is by:" if joined.sharing else "."),
        *(f"  {other.name} of {other.federation}, {other.home}" for other in joined.sharing),
        *joined.apart,
        "What a plan needs beside the keys: `onlysum participant dataset add NAME PATH` and",
        "`onlysum participant model add NAME PATH`; then `onlysum participant start`. The policy allows nothing yet.",
    ]
    return value, lines


@app.command()
def renew(
    token: Annotated[
        str, typer.Argument(metavar="[TOKEN]", help="The operator's line, if the certificate has ended; - as for join.")
    ] = "",
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Get a new certificate now; the identity and the ledger stay.

    A running daemon does so by itself. Where the certificate has ended, the
    operator's line is needed: `onlysum coordinator invite NAME --again`.

    Example: onlysum participant renew --config clinic-a
    """
    from host.certificates import expires_at
    from host.fingerprints import fingerprint
    from host.rendering import moment, timestamp
    from host.system import SystemClock, SystemRandom
    from participant.daemon import renewing

    home, line = directory(config).resolve(), _line_of(token) if token else ""
    with working("asking the coordinator"):
        if line:
            identity = renewing.renew_by_invitation(line, home, random=SystemRandom())
        else:
            identity = renewing.renew_over_connection(opened(config), clock=SystemClock(), random=SystemRandom())
    until, authority = expires_at(identity.certificate), fingerprint(identity.authority_der)
    value: Json = {"name": identity.name, "certificate_until": timestamp(until), "authority": authority}
    lines = [f"The certificate of {identity.name} is valid until {moment(until)} UTC.", *_authority_lines(config)]
    show(value, lines, as_json=as_json)


def _authority_lines(config: Path | None) -> list[str]:
    """Return what the policy should say of the authority, where it says something else."""
    from participant.views.identity import identity_view

    return identity_view(opened(config)).policy_lines()


@app.command()
def start(config: Directory = None) -> None:
    """Run the daemon in the foreground; end it with Ctrl-C or SIGTERM.

    Example: onlysum participant start --config clinic-a
    """
    from participant.daemon import process

    process.start(directory(config).resolve())


@app.command()
def status(config: Directory = None, as_json: AsJson = False) -> None:
    """Show the daemon's state, its connection and the pending plans.

    The exit code is 0 if the daemon runs, 3 if not: a person has to start it.

    Example: onlysum participant status
    """
    from participant.views.status import participant_status

    current = participant_status(opened(config))
    show_view(current, as_json=as_json)
    if not current.running:
        raise typer.Exit(Fault.REFUSED)


@app.command()
def pause(config: Directory = None, as_json: AsJson = False) -> None:
    """Take no part in further attempts until resumed.

    What has been sent stays sent.

    Example: onlysum participant pause
    """
    opened(config).home.pause_mark.touch()
    show(
        {"paused": True}, ["Paused: no further attempt is joined. Go on: `onlysum participant resume`"], as_json=as_json
    )


@app.command()
def resume(config: Directory = None, as_json: AsJson = False) -> None:
    """Take part again.

    Example: onlysum participant resume
    """
    opened(config).home.pause_mark.unlink(missing_ok=True)
    show({"paused": False}, ["Taking part again."], as_json=as_json)


@app.command()
def leave(
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Leave the federation, and erase what is left of updates.

    Ledger, journals and decisions stay. No daemon starts here again.

    Example: onlysum participant leave --yes
    """
    from host.system import SystemClock
    from participant.daemon.leaving import leave as leave_for_good

    participant = opened(config)
    name, federation = participant.owner.name, participant.owner.federation
    if not yes and not typer.confirm(f"Leave {federation} for good?"):
        raise typer.Exit(3)
    left = leave_for_good(participant, SystemClock())
    if left.untold is None:
        told = f"{name} has left; the coordinator knows, and ends the runs that need it."
    else:
        told = (
            f"{name} has left, but the coordinator could not be told ({left.untold.code}: {left.untold.detail}). "
            "Run this again when it can be reached, or ask the operator to revoke the certificate."
        )
    lines = [
        told,
        f"Erased files of updates and shares: {left.erased}.",
        "The ledger stays: what was spent on these people stays spent.",
    ]
    value: Json = {
        "left": federation,
        "told": left.untold is None,
        "code": left.untold.code if left.untold else "",
        "erased": left.erased,
    }
    show(value, lines, as_json=as_json)


@app.command()
def doctor(
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Write a zip for support: no keys, no data.")] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Check configuration, policy, ledger, data and connection.

    Example: onlysum participant doctor --bundle report.zip
    """
    from participant.daemon.doctor import examine

    examination = examine(directory(config).resolve(), bundle)
    show_view(examination, as_json=as_json)
    if not examination.ok:
        raise typer.Exit(2)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write; it holds the keys, so it is 0600.")],
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Write identity, policy, plans and ledger to one archive.

    The journals of runs are in it too. The daemon may run meanwhile.

    Example: onlysum participant backup /secure/clinic-a.tar.gz
    """
    from participant.daemon.backup import write_backup

    size = write_backup(opened(config), file)
    lines = [f"Wrote {file} ({size} bytes). It holds this participant's keys: keep it as safe as the machine."]
    show({"file": str(file), "bytes": size}, lines, as_json=as_json)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="An archive that `backup` wrote.")],
    ledgers: Annotated[
        Path | None,
        typer.Option(
            "--ledgers", metavar="DIR", envvar="ONLYSUM_LEDGERS", help="This machine's ledgers; default: as archived."
        ),
    ] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into a directory without a participant.

    Of a ledger that is there already the longer copy stays.

    Example: onlysum participant restore /secure/clinic-a.tar.gz --config clinic-a
    """
    from host.system import SystemClock
    from participant.daemon.backup import read_backup

    home = directory(config).resolve()
    aside = read_backup(file, home, at=int(SystemClock().now()), ledgers=ledgers)
    lines = [
        f"Restored {home}.",
        *(f"{path} could not be read and is kept under this name." for path in aside),
        "If rounds were charged or signed since the backup, the participant abstains: it never spends twice unseen.",
        "It goes on once you have charged what is missing: `onlysum participant ledger reanchor`",
        "Next: `onlysum participant doctor`, then `onlysum participant start`",
    ]
    show({"directory": str(home), "aside": [str(path) for path in aside]}, lines, as_json=as_json)
