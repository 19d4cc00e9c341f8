"""``onlysum coordinator run``: creating, watching and ending runs.

Guarantees: a command changes rows and nothing else; the daemon notices within a fraction of a second.
Leaves to others: what is shown (``coordinator.views``), following a run (``coordinator.commands.run_watch``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.commands import run_labels
from coordinator.commands.choices import GraphKind, Suite, Weights
from coordinator.commands.console import (
    Directory,
    RunName,
    complete_labels,
    complete_members,
    complete_runs,
    now,
    opened,
    seconds,
)
from host.console import AsJson, say, show, show_view, working

if TYPE_CHECKING:
    from coordinator.opened import OpenHome
    from coordinator.runs.creation import Again
    from coordinator.runs.thresholds import Requested
    from host.rendering import Json

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Create, watch and end runs.")
NewestRun = Annotated[
    str,
    typer.Argument(
        metavar="[RUN]", help="A run's id, or its beginning; by default the newest.", autocompletion=complete_runs
    ),
]


@app.command()
def create(
    context: typer.Context,
    draft: Annotated[
        Path | None,
        typer.Argument(metavar="[DRAFT]", help="What `onlysum plan build` made; or a recipe.toml, to build it now."),
    ] = None,
    *,
    like: Annotated[
        str,
        typer.Option(
            "--like",
            metavar="RUN",
            help="In place of DRAFT: once more what that run was.",
            autocompletion=complete_runs,
        ),
    ] = "",
    members: Annotated[
        str,
        typer.Option(
            "--members",
            help="Names of the roster, comma-separated; default: every participant.",
            autocompletion=complete_members,
        ),
    ] = "",
    f: Annotated[int | None, typer.Option("--f", help="Colluding participants to withstand; default a third.")] = None,
    min_survivors: Annotated[int | None, typer.Option("--min-survivors", help="Least participants in a sum.")] = None,
    weights: Annotated[
        Weights | None,
        typer.Option("--weights", help="Of members in a sum; units: by public dataset size. Default: equal."),
    ] = None,
    ranks: Annotated[
        str, typer.Option("--ranks", metavar="NAME=RANK,...", help="Of members that train a smaller rank (hetlora).")
    ] = "",
    graph: Annotated[
        GraphKind | None,
        typer.Option("--graph", help="Who masks with whom; k-regular: cheaper, a weaker claim. Default: complete."),
    ] = None,
    max_dropouts: Annotated[int | None, typer.Option("--max-dropouts", help="Of a round on a k-regular graph.")] = None,
    suite: Annotated[
        Suite | None, typer.Option("--suite", help="How keys are agreed; 2: also ML-KEM-768. Default: the draft's.")
    ] = None,
    entry_bits: Annotated[
        int | None,
        typer.Option("--entry-bits", help="Of an entry in a sum; default: as few as cost 1% at most."),
    ] = None,
    expires: Annotated[str, typer.Option("--expires", help="Until when the run must be over.")] = "7d",
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="A note of your own, also more than once."),
    ] = None,
    then_watch: Annotated[bool, typer.Option("--watch", help="Then follow it, as `run watch` does.")] = False,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Bind a draft to a roster and propose the plan to everybody.

    Noise and words are calibrated to the roster, and the plan is signed. A
    recipe is made into a draft first, which needs torch and the base here.
    With --like, what is not said is as in the earlier run.

    Example: onlysum coordinator run create digits/ --members a,b,c
    """
    from coordinator.labels import read_labels
    from coordinator.runs import creation
    from coordinator.views.proposal import Proposal
    from host.system import SystemRandom
    from privacy.errors import LocalError

    if (draft is None) == (not like):
        raise LocalError("E-USAGE", "give a draft, or --like and an earlier run")
    names, notes = [name.strip() for name in members.split(",") if name.strip()], read_labels(label or [])
    with opened(config) as coordinator:
        again = _again(coordinator, like, names) if like else None
        names = list(again.members) if again else names or _everybody(coordinator)
        made_at = now()
        request = creation.RunRequest(
            members=names,
            tolerance=_tolerance(again, f, min_survivors, graph, max_dropouts),
            weight_rule=weights.rule if weights else again.weight_rule if again else "equal",
            ranks=creation.read_ranks(ranks) if ranks or again is None else again.ranks,
            suite=suite.number if suite else again.suite if again else None,
            entry_bits=entry_bits,
            created_at=made_at,
            expires_at=made_at + seconds(expires),
        )
        notes = run_labels.taken_over(coordinator, like, notes) if like else notes
        with _drafted(context, again.draft if again else draft or Path()) as directory:
            known = creation.read_draft(directory)
            plan = creation.make_plan(coordinator.store, coordinator.settings, known, request, random=SystemRandom())
            operator, content = coordinator.authority().operator, coordinator.content
            creation.register(
                coordinator.store, coordinator.home, operator, plan, directory, labels=notes, content=content
            )
    show_view(Proposal(plan), as_json=as_json)
    if then_watch:
        watch(plan.run_id, config, as_json=as_json)


def _again(coordinator: OpenHome, name: str, members: list[str]) -> Again:
    from coordinator.database import run_rows
    from coordinator.runs import creation

    with coordinator.store.read() as connection:
        plan = run_rows.find_run(connection, name).parsed()
    return creation.like(coordinator.files(plan.run_id), plan, members)


def _tolerance(
    again: Again | None, f: int | None, min_survivors: int | None, graph: GraphKind | None, max_dropouts: int | None
) -> Requested:
    """Return what a run is to withstand: as asked for, of an earlier run's what fits the graph."""
    from coordinator.runs.thresholds import Requested

    kind = graph.kind if graph else again.tolerance.graph if again else "complete"
    before = again.tolerance if again and again.tolerance.graph == kind else Requested(graph=kind)
    return Requested(
        f=before.f if f is None else f,
        min_survivors=before.min_survivors if min_survivors is None else min_survivors,
        graph=kind,
        max_dropouts=before.max_dropouts if max_dropouts is None else max_dropouts,
    )


def _everybody(coordinator: OpenHome) -> list[str]:
    """Return the names of all participants that are enrolled."""
    from coordinator.database import member_rows
    from protos.envelope import Role

    with coordinator.store.read() as connection:
        members = member_rows.list_members(connection)
    return [member.name for member in members if member.active and member.role is Role.PARTICIPANT]


@contextmanager
def _drafted(context: typer.Context, source: Path) -> Iterator[Path]:
    """Yield a draft's directory: as it was given, or made of a recipe for as long as the block runs.

    This package may not import what makes drafts, which needs torch; the command that mounts it hands it over.
    """
    from privacy.errors import LocalError

    if source.suffix != ".toml":
        yield source
        return
    if not callable(context.obj):
        raise LocalError("E-USAGE", "a recipe is built by `onlysum plan build`; give the draft that it makes")
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / "draft"
        with working("hashing the base, making the adapter and checking both"):
            warnings = context.obj(source, draft)
        say(*(f"warning: {warning}" for warning in warnings), to_error=True)
        yield draft


def _named(coordinator: OpenHome, run: str) -> str:
    """Return the name that was given, or the id of the newest run.

    Raises:
        LocalError: ``E-NOT-FOUND``: there is no run yet.
    """
    from coordinator.database import run_rows
    from privacy.errors import LocalError

    if run:
        return run
    with coordinator.store.read() as connection:
        runs = run_rows.list_runs(connection)
    if not runs:
        raise LocalError("E-NOT-FOUND", "there is no run yet")
    return runs[-1].run_id


@app.command("list")
def list_runs(
    *,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="KEY[=VALUE]",
            help="Only runs with it; more than once: with all of them.",
            autocompletion=complete_labels,
        ),
    ] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """List all runs, or those with a label.

    Example: onlysum coordinator run list --label site=north
    """
    from coordinator.labels import read_wanted
    from coordinator.views.runs import run_list

    wanted = read_wanted(label or [])
    with opened(config) as coordinator:
        show_view(run_list(coordinator, wanted), as_json=as_json)


app.command()(run_labels.label)


@app.command("show")
def show_run(run: NewestRun = "", config: Directory = None, as_json: AsJson = False) -> None:
    """Show a run: is it going well, who is missing, what next.

    Example: onlysum coordinator run show 0a1b
    """
    from coordinator.views.overview import overview

    with opened(config) as coordinator:
        show_view(overview(coordinator, _named(coordinator, run)), as_json=as_json)


@app.command()
def watch(run: NewestRun = "", config: Directory = None, as_json: AsJson = False) -> None:
    """Follow a run round by round until it ends.

    The exit code is 0 if it completed or its operator ended it, 4 if not.

    Example: onlysum coordinator run watch 0a1b
    """
    from coordinator.commands.run_watch import follow

    with opened(config) as coordinator:
        as_wanted = follow(coordinator, _named(coordinator, run), as_json=as_json)
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


def _set_paused(config: Path | None, run: str, *, paused: bool, as_json: bool) -> None:
    from coordinator import orders

    with opened(config) as coordinator:
        run_id = orders.set_paused(coordinator.store, run, paused=paused)
    show({"run": run_id, "paused": paused}, [f"{'Paused' if paused else 'Resumed'} {run_id}"], as_json=as_json)


@app.command()
def abort(run: RunName, config: Directory = None, as_json: AsJson = False) -> None:
    """End a run for good; rounds that completed stay as they are.

    Example: onlysum coordinator run abort 0a1b
    """
    from coordinator import orders

    with opened(config) as coordinator:
        run_id = orders.abort(coordinator.store, run)
    show({"run": run_id, "abort_requested": True}, [f"The daemon ends {run_id}."], as_json=as_json)


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
    from coordinator import orders

    with opened(config) as coordinator:
        left = orders.set_excluded(coordinator.store, run, member, excluded=excluded, now=now())
    what = f"Excluded {member} from {left.run_id}" if excluded else f"Took {member} back into {left.run_id}"
    value: Json = {"run": left.run_id, "member": member, "excluded": excluded, "left": left.taking_part}
    show(value, [f"{what}; {left.taking_part} of {left.roster} take part."], as_json=as_json)


@app.command()
def export(
    run: NewestRun = "",
    *,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="A new directory.")],
    released: Annotated[
        bool, typer.Option("--released", help="Of a run that ended early: what its completed rounds released.")
    ] = False,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Copy a completed run's adapter, report and plan.

    The adapter's model card and the signed evaluations go with them. Of a
    measurement its figures, in measurement.json, are in the adapter's place.

    Example: onlysum coordinator run export 0a1b -o result
    """
    from coordinator.orders import export_run
    from coordinator.views.overview import overview
    from host import durable

    with opened(config) as coordinator:
        ended = overview(coordinator, _named(coordinator, run))
        with durable.new_directory(out) as directory:
            last = export_run(coordinator.files(ended.run.run_id), ended, directory, released=released)
    names, rounds = sorted(path.name for path in out.iterdir()), ended.plan.recipe.rounds
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
