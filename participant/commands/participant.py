"""``onlysum participant``: the data owner's commands.

Guarantees: help imports nothing heavy; commands and daemon share the directory, so a command works whether or not the
daemon runs.
Leaves to others: datasets and models (``registry``), policy, ledger and members (``owner``), plans
(``plan``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import AsJson, Json, moment, show
from participant.commands import owner, plan, registry
from participant.commands.console import Directory, directory, opened
from privacy.errors import LocalError, OnlysumError

if TYPE_CHECKING:
    from participant.daemon.assembly import Opened
    from privacy.plan import Plan

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Join, add data, approve plans, train, see spend.",
)
app.add_typer(registry.dataset_app, name="dataset")
app.add_typer(registry.model_app, name="model")
app.add_typer(plan.app, name="plan")
app.add_typer(owner.policy_app, name="policy")
app.add_typer(owner.ledger_app, name="ledger")
app.add_typer(owner.member_app, name="member")


@app.command()
def join(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The operator's line; - reads it from standard input.")],
    proxy: Annotated[str, typer.Option("--proxy", help="HTTPS CONNECT proxy, http://host:port.")] = "",
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Enrol with an invitation.

    Makes keys, gets a certificate, and writes a policy that allows nothing.

    Example: onlysum participant join TOKEN --config clinic-a
    """
    import sys

    from host.credentials import fingerprint
    from host.system import SystemClock, SystemRandom
    from participant.daemon.joining import join as enrol_here

    line = sys.stdin.read() if token == "-" else token  # noqa: S105  # a dash is no secret
    where = directory(config).resolve()
    identity = enrol_here(line, where, clock=SystemClock(), random=SystemRandom(), proxy=proxy)
    authority = fingerprint(identity.authority_der)
    value: Json = {
        "directory": str(where),
        "name": identity.name,
        "role": identity.role.value,
        "federation": identity.federation,
        "identity": identity.fingerprint,
        "authority": authority,
        "operator": fingerprint(identity.operator_key),
    }
    lines = [
        f"Joined {identity.federation} as {identity.role.value} {identity.name}; everything lies in {where}",
        f"  your identity  {identity.fingerprint}",
        f"  the authority  {authority}",
        f"  the operator   {fingerprint(identity.operator_key)}",
        "Compare them with the operator by telephone.",
        "Next: dataset add, model add, edit policy.toml (it allows nothing yet), then start.",
    ]
    show(value, lines, as_json=as_json)


@app.command()
def start(config: Directory = None) -> None:
    """Run the daemon in the foreground; end it with Ctrl-C or SIGTERM.

    Example: onlysum participant start --config clinic-a
    """
    from participant.daemon.process import serve

    serve(directory(config).resolve())


@app.command()
def status(config: Directory = None, as_json: AsJson = False) -> None:
    """Show the daemon's state, its connection and the pending plans.

    Example: onlysum participant status
    """
    from participant.daemon.status_file import read_status
    from privacy.claims import graph_words, suite_words

    here = opened(config)
    seen, store = read_status(here.home), here.review.plans
    running, connected = seen is not None and seen.running, seen is not None and seen.connected
    waiting = [one for one in store.run_ids() if store.decision(one) is None and store.ended(one) is None]
    going = [one for one in store.run_ids() if store.decision(one) is not None and store.ended(one) is None]
    plans = {one: store.get(one).plan for one in (*waiting, *going)}
    paused = here.home.pause_mark.exists()
    head = here.ledger.head()
    value: Json = {
        "name": here.owner.name,
        "federation": here.owner.federation,
        "running": running,
        "connected": connected,
        "paused": paused,
        "code": seen.code if seen else "",
        "waiting": list(waiting),
        "runs": list(going),
        "plans": {
            one: {"roster": _roster(here, plan), "suite": plan.suite, "graph": plan.graph.kind}
            for one, plan in plans.items()
        },
        "ledger_sequence": head.sequence,
    }
    state = "running" if running else "not running; start it: onlysum participant start"
    state += (", connected" if connected else ", NOT connected") if running else ""
    lines = [f"{here.owner.name} in {here.owner.federation}: {state}{', paused' if paused else ''}"]
    if seen and running and seen.code:
        lines.append(f"  {seen.code}: {seen.detail}")
    for one, known in plans.items():
        until = f"takes part in run {one[:8]} until {moment(known.expires_at)} UTC"
        lines.append(f"waits for you: plan show {one[:8]}" if one in waiting else until)
        lines.append(f"  roster: {_roster(here, known)}; suite {suite_words(known)}; graph {graph_words(known)}")
    show(value, lines, as_json=as_json)


def _roster(here: Opened, plan: Plan) -> str:
    from participant.owner.policy import load_policy
    from participant.owner.rules import is_verified_roster

    try:
        verified = is_verified_roster(plan, load_policy(here.home), here.owner.name)
    except OnlysumError:  # a policy that does not parse pins nobody
        return "unverified"
    return "verified" if verified else "unverified"


@app.command()
def pause(config: Directory = None, as_json: AsJson = False) -> None:
    """Take no part in further attempts until resumed.

    What has been sent stays sent.

    Example: onlysum participant pause
    """
    opened(config).home.pause_mark.touch()
    show({"paused": True}, ["Paused: no further attempt is joined. Go on with `resume`."], as_json=as_json)


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
    """Leave the federation. Ledger and decisions stay.

    No daemon starts here again.

    Example: onlysum participant leave --yes
    """
    from participant.daemon.status_file import read_status

    here = opened(config)
    seen = read_status(here.home)
    if seen is not None and seen.running:
        raise LocalError("E-USAGE", "the daemon is running; stop it first")
    if not yes and not typer.confirm(f"Leave {here.owner.federation} for good?"):
        raise typer.Exit(3)
    here.home.left_mark.touch()
    lines = [
        f"{here.owner.name} has left. Ask the operator to revoke its certificate: that is what others go by.",
        "The ledger stays: what was spent on these people stays spent.",
    ]
    show({"left": here.owner.federation}, lines, as_json=as_json)


@app.command()
def doctor(
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Write a zip for support: no keys, no data.")] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Check configuration, policy, ledger, data and connection.

    Example: onlysum participant doctor --bundle report.zip
    """
    from participant.daemon.doctor import examine, write_bundle
    from participant.home import Home

    where = directory(config).resolve()
    checks = examine(where)
    if bundle is not None:
        write_bundle(bundle, Home(where), checks)
    value: Json = {
        "ok": all(one.ok for one in checks),
        "checks": [{"name": one.name, "ok": one.ok, "detail": one.detail} for one in checks],
    }
    lines = [f"{'ok  ' if one.ok else 'FAIL'} {one.name}: {one.detail}" for one in checks]
    show(value, [*lines, *([f"wrote {bundle}"] if bundle else [])], as_json=as_json)
    if not all(one.ok for one in checks):
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

    size = write_backup(opened(config).home, file)
    lines = [f"Wrote {file} ({size} bytes). It holds this participant's keys: keep it as safe as the machine."]
    show({"file": str(file), "bytes": size}, lines, as_json=as_json)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="An archive that `backup` wrote.")],
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into a directory without a participant.

    Example: onlysum participant restore /secure/clinic-a.tar.gz --config clinic-a
    """
    from participant.daemon.backup import read_backup

    where = directory(config).resolve()
    read_backup(file, where)
    lines = [
        f"Restored {where}.",
        "If rounds were charged or signed since the backup, the participant abstains: it never spends twice unseen.",
        f"Next: onlysum participant doctor --config {where}, then start",
    ]
    show({"directory": str(where)}, lines, as_json=as_json)
