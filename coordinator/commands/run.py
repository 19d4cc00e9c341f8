"""``onlysum coordinator run``: creating, watching and ending runs.

Guarantees: a command changes rows and nothing else; the daemon notices within a fraction of a second.
Leaves to others: what is shown (``coordinator.views``), following a run (``coordinator.commands.run_watch``).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.commands.choices import GraphKind, Suite, Weights
from coordinator.commands.console import Directory, complete_members, complete_runs, now, opened, seconds
from host.console import AsJson, show, show_view
from privacy.errors import LocalError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from coordinator.database.run_rows import RunRecord
    from coordinator.views.overview import Overview
    from host.rendering import Json

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Create, watch and end runs.")
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, or its beginning.", autocompletion=complete_runs)
]


@app.command()
def create(
    draft: Annotated[Path, typer.Argument(metavar="DRAFT", help="The directory that `onlysum plan build` made.")],
    *,
    members: Annotated[
        str, typer.Option("--members", help="Names of the roster, comma-separated.", autocompletion=complete_members)
    ],
    f: Annotated[int | None, typer.Option("--f", help="Colluding participants to withstand; default a third.")] = None,
    min_survivors: Annotated[int | None, typer.Option("--min-survivors", help="Least participants in a sum.")] = None,
    weights: Annotated[
        Weights, typer.Option("--weights", help="Of members in a sum; units: by public dataset size.")
    ] = Weights.EQUAL,
    ranks: Annotated[
        str, typer.Option("--ranks", metavar="NAME=RANK,...", help="Of members that train a smaller rank (hetlora).")
    ] = "",
    graph: Annotated[
        GraphKind, typer.Option("--graph", help="Who masks with whom; k-regular: cheaper, a weaker claim.")
    ] = GraphKind.COMPLETE,
    max_dropouts: Annotated[int | None, typer.Option("--max-dropouts", help="Of a round on a k-regular graph.")] = None,
    suite: Annotated[
        Suite | None, typer.Option("--suite", help="How keys are agreed; 2: also ML-KEM-768. Default: the draft's.")
    ] = None,
    entry_bits: Annotated[
        int | None,
        typer.Option("--entry-bits", help="Of an entry in a sum; default: as few as cost 1% at most."),
    ] = None,
    expires: Annotated[str, typer.Option("--expires", help="Until when the run must be over.")] = "7d",
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Bind a draft to a roster and propose the plan to everybody.

    Noise and words are calibrated to the roster, and the plan is signed.

    Example: onlysum coordinator run create digits/ --members a,b,c
    """
    from coordinator.runs import creation
    from coordinator.runs.thresholds import Requested
    from coordinator.views.proposal import Proposal
    from host.system import SystemRandom

    with opened(config) as coordinator:
        made_at = now()
        request = creation.RunRequest(
            members=[name.strip() for name in members.split(",") if name.strip()],
            tolerance=Requested(
                f=f,
                min_survivors=min_survivors,
                graph=graph.kind,
                max_dropouts=max_dropouts,
            ),
            weight_rule=weights.rule,
            ranks=creation.read_ranks(ranks),
            suite=None if suite is None else suite.number,
            entry_bits=entry_bits,
            created_at=made_at,
            expires_at=made_at + seconds(expires),
        )
        known = creation.read_draft(draft)
        plan = creation.make_plan(coordinator.store, coordinator.settings, known, request, random=SystemRandom())
        creation.register(coordinator.store, coordinator.home, coordinator.authority().operator, plan, draft)
    show_view(Proposal(plan), as_json=as_json)


@app.command("list")
def list_runs(config: Directory = None, as_json: AsJson = False) -> None:
    """List all runs.

    Example: onlysum coordinator run list
    """
    from coordinator.views.runs import run_list

    with opened(config) as coordinator:
        show_view(run_list(coordinator), as_json=as_json)


@app.command("show")
def show_run(run: RunName, config: Directory = None, as_json: AsJson = False) -> None:
    """Show a run: is it going well, who is missing, what next.

    Example: onlysum coordinator run show 0a1b
    """
    from coordinator.views.overview import overview

    with opened(config) as coordinator:
        show_view(overview(coordinator, run), as_json=as_json)


@app.command()
def watch(run: RunName, config: Directory = None, as_json: AsJson = False) -> None:
    """Follow a run round by round until it ends.

    The exit code is 0 if it completed or its operator ended it, 4 if not.

    Example: onlysum coordinator run watch 0a1b
    """
    from coordinator.commands.run_watch import follow

    with opened(config) as coordinator:
        as_wanted = follow(coordinator, run, as_json=as_json)
    if not as_wanted:
        raise typer.Exit(4)


@app.command()
def pause(run: RunName, config: Directory = None, as_json: AsJson = False) -> None:
    """Open no further round; the one that is open goes on to its end.

    Example: onlysum coordinator run pause 0a1b
    """
    _set_paused(config, run, paused=True, as_json=as_json)


@app.command()
def resume(run: RunName, config: Directory = None, as_json: AsJson = False) -> None:
    """Go on with a paused run.

    Example: onlysum coordinator run resume 0a1b
    """
    _set_paused(config, run, paused=False, as_json=as_json)


def _open_run(connection: Connection, run: str) -> RunRecord:
    """Return a run that has not ended.

    Raises:
        LocalError: ``E-NOT-FOUND``, or ``E-USAGE``: it has ended.
    """
    from coordinator.database import run_rows

    record = run_rows.find_run(connection, run)
    if record.state.ended:
        raise LocalError("E-USAGE", f"run {record.run_id} is {record.state.value} already")
    return record


def _set_paused(config: Path | None, run: str, *, paused: bool, as_json: bool) -> None:
    from coordinator.database import run_rows

    with opened(config) as coordinator, coordinator.store.begin() as connection:
        open_run = _open_run(connection, run)
        run_rows.set_paused(connection, open_run.run_id, paused=paused)
    show(
        {"run": open_run.run_id, "paused": paused},
        [f"{'Paused' if paused else 'Resumed'} {open_run.run_id}"],
        as_json=as_json,
    )


@app.command()
def abort(run: RunName, config: Directory = None, as_json: AsJson = False) -> None:
    """End a run for good; rounds that completed stay as they are.

    Example: onlysum coordinator run abort 0a1b
    """
    from coordinator.database import run_rows

    with opened(config) as coordinator, coordinator.store.begin() as connection:
        open_run = _open_run(connection, run)
        run_rows.request_abort(connection, open_run.run_id)
    show({"run": open_run.run_id, "abort_requested": True}, [f"The daemon ends {open_run.run_id}."], as_json=as_json)


@app.command()
def exclude(
    run: RunName,
    member: Annotated[str, typer.Argument(metavar="MEMBER", help="A participant on the run's roster.")],
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Leave a participant out of the rest of a run.

    The open attempt no longer waits for it. It is told, keeps up with the rounds, and `run include` takes it back.

    Example: onlysum coordinator run exclude 0a1b carol
    """
    _set_excluded(config, run, member, excluded=True, as_json=as_json)


@app.command()
def include(
    run: RunName,
    member: Annotated[str, typer.Argument(metavar="MEMBER", help="A participant that was excluded.")],
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Take back a participant that was excluded.

    Example: onlysum coordinator run include 0a1b carol
    """
    _set_excluded(config, run, member, excluded=False, as_json=as_json)


def _set_excluded(config: Path | None, run: str, member: str, *, excluded: bool, as_json: bool) -> None:
    from coordinator.database import member_rows, standing_rows

    with opened(config) as coordinator, coordinator.store.begin() as connection:
        open_run = _open_run(connection, run)
        run_id, plan = open_run.run_id, open_run.parsed()
        roster = [participant.id for participant in plan.roster]
        out = standing_rows.excluded_members(connection, run_id).keys()
        if member not in roster:
            raise LocalError("E-NOT-FOUND", f"{member!r} is not on the roster of run {run_id}: {', '.join(roster)}")
        left = len(roster) - len(out | {member} if excluded else out - {member})
        if excluded and left < plan.min_survivors:
            least = f"the plan asks for at least {plan.min_survivors} participants in a sum"
            raise LocalError("E-USAGE", f"without {member} {left} of {len(roster)} would be left, and {least}")
        if excluded != (member in out):
            standing_rows.set_excluded(connection, run_id, member, excluded=excluded, now=now())
            kind = "member-excluded" if excluded else "member-included"
            member_rows.log_security(connection, now(), kind, member, run_id)
    what = f"Excluded {member} from {run_id}" if excluded else f"Took {member} back into {run_id}"
    value: Json = {"run": run_id, "member": member, "excluded": excluded, "left": left}
    show(value, [f"{what}; {left} of {len(roster)} take part."], as_json=as_json)


@app.command()
def export(
    run: RunName,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="A new directory.")],
    *,
    released: Annotated[
        bool, typer.Option("--released", help="Of a run that ended early: what its completed rounds released.")
    ] = False,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Copy a completed run's adapter, report and plan.

    The adapter's model card and the signed evaluations go with them.

    Example: onlysum coordinator run export 0a1b -o result
    """
    import json

    from coordinator.runs.global_adapter import RunFiles
    from coordinator.runs.release import write_adapter
    from coordinator.views.overview import overview
    from host import durable

    with opened(config) as coordinator:
        ended = overview(coordinator, run)
        files = RunFiles(coordinator.home.run(ended.run.run_id))
    last, rounds = _unfinished_at(ended, released=released), ended.plan.recipe.rounds
    with durable.new_directory(out) as directory, tempfile.TemporaryDirectory() as scratch:
        adapter = files.exported if last is None else Path(scratch)
        if last is not None:
            write_adapter(adapter, ended.plan, files, ended.evaluations, completed=last)
        (directory / "adapter").mkdir()
        for file in adapter.iterdir():
            shutil.copyfile(file, directory / "adapter" / file.name)
        if files.report.exists():
            shutil.copyfile(files.report, directory / "report.json")
        (directory / "plan.json").write_bytes(ended.run.plan)
        (directory / "plan.sig").write_bytes(ended.run.signature)
        (directory / "evaluations.json").write_text(json.dumps(ended.evaluation_values(), indent=2))
    names = sorted(path.name for path in out.iterdir())
    value: Json = {
        "run": ended.run.run_id,
        "directory": str(out),
        "files": list(names),
        "state": ended.run.state.value,
        "rounds_completed": len(ended.rounds),
        "rounds": rounds,
    }
    lines = [f"Wrote {out}/: {', '.join(names)}"]
    if last is not None:
        lines += [f"The run did not complete: this is the adapter after round {last} of {rounds}."]
    show(value, lines, as_json=as_json)


def _unfinished_at(ended: Overview, *, released: bool) -> int | None:
    """Return after which round the adapter is that leaves a run that ended early; ``None``: it completed.

    Raises:
        LocalError: ``E-USAGE``: the run goes on, has released nothing, or ended early and that was not asked for.
    """
    from coordinator.database.run_rows import RunState

    run, completed = ended.run, len(ended.rounds)
    if run.state is RunState.COMPLETED:
        return None
    why = f"run {run.run_id} is {run.state.value}, not completed"
    if not run.state.ended:
        raise LocalError("E-USAGE", f"{why}; end it first, or wait")
    if not completed:
        raise LocalError("E-USAGE", f"{why}, and has released nothing")
    if not released:
        raise LocalError("E-USAGE", f"{why}; --released exports what {completed} of its rounds released")
    return ended.rounds[-1].round
